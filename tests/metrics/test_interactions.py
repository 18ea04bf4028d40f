import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.interactions import (
    HessianStatistics,
    element_penalties,
    hessian_statistics,
    pixel_hessians,
)
from hessian_penalty.penalty import diagonality, off_diagonal_share


class Quadratic:
    """Every element p of the 2×1×2 image is ½ zᵀ H_p z."""

    latent_dim = 3

    def __init__(self):
        x = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.hessians = x + x.transpose(1, 2)
        self.images = 0

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng, dtype=torch.float64)

    def __call__(self, z):
        self.images += len(z)
        return 0.5 * torch.einsum("ni,pij,nj->np", z, self.hessians, z).reshape(-1, 2, 1, 2)


class Cubic(Quadratic):
    """Element p is z0 times ½ zᵀ H_p z: its Hessian changes from sample to sample."""

    def __call__(self, z):
        return super().__call__(z) * z[:, :1, None, None]


class Square(Quadratic):
    """One latent, squared."""

    latent_dim = 1

    def __call__(self, z):
        return z[:, :, None, None] ** 2


def off_diagonal_squares(matrices):
    return matrices.square().sum(dim=(-2, -1)) - matrices.diagonal(dim1=-2, dim2=-1).square().sum(dim=-1)


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_quadratic_forms_have_their_own_entries(batch_size):
    G = Quadratic()
    found = hessian_statistics(G, G.sample_latents(5), batch_size=batch_size)
    assert isinstance(found, HessianStatistics)
    assert torch.allclose(found.energy, G.hessians.square().mean(0), rtol=1e-8)
    assert torch.allclose(found.magnitude, G.hessians.abs().mean(0), rtol=1e-8)


@pytest.mark.parametrize("batch_size", [1, 8, 512])  # 8: chunks of 2, 2 and 1 samples, which count by their size
def test_one_pass_gives_the_diagonality_too(batch_size):
    G, z = Cubic(), Cubic().sample_latents(5, torch.Generator().manual_seed(1))
    expected = diagonality(G, z)
    before = G.images
    found = hessian_statistics(G, z, batch_size=batch_size).diagonality
    assert G.images - before == 5 * (2 * 3**2 + 1)
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0 < found.fraction < 1


def test_a_single_latent_has_no_diagonality():
    found = hessian_statistics(Square(), torch.ones(2, 1, dtype=torch.float64))
    assert found.diagonality is None
    assert found.energy.item() == pytest.approx(4)


def test_in_the_eigenbasis_of_one_form_nothing_is_off_the_diagonal():
    G = Quadratic()
    G.hessians = G.hessians[:1].expand(4, 3, 3)
    basis = torch.linalg.eigh(G.hessians[0]).eigenvectors.T
    assert off_diagonal_share(hessian_statistics(G, G.sample_latents(2), basis=basis).energy) < 1e-12
    assert off_diagonal_share(hessian_statistics(G, G.sample_latents(2)).energy) > 0.1


@pytest.mark.parametrize("batch_size", [1, 8, 512])
def test_penalties_of_elements_are_the_off_diagonal_squares(batch_size):
    G = Quadratic()
    z = G.sample_latents(3)
    expected = off_diagonal_squares(G.hessians).reshape(2, 1, 2)
    found = element_penalties(G, z, batch_size=batch_size)
    assert found.shape == (3, 2, 1, 2)
    assert torch.allclose(found, expected.expand(3, 2, 1, 2), rtol=1e-8)
    assert torch.allclose(
        element_penalties(G, z, batch_size=batch_size).mean(dim=1), expected.mean(0).expand(3, 1, 2), rtol=1e-8
    )


def test_the_mean_of_the_map_is_the_penalty_off_the_diagonal():
    G, z = Cubic(), Cubic().sample_latents(4, torch.Generator().manual_seed(2))
    energy = hessian_statistics(G, z).energy
    assert element_penalties(G, z).mean().item() == pytest.approx((energy.sum() - energy.diagonal().sum()).item())


def test_the_element_with_the_largest_penalty_and_a_random_one():
    G, z = Cubic(), Cubic().sample_latents(5, torch.Generator().manual_seed(3))
    found = pixel_hessians(G, z, seed=4)
    penalties = element_penalties(G, z)
    chance = int(np.random.default_rng(4).integers(5 * 4))
    for element, index in ((found.largest, int(penalties.argmax())), (found.random, chance)):
        sample, p = divmod(index, 4)
        assert (element.channel, element.row, element.column) == (p // 2, 0, p % 2)
        assert torch.equal(element.image, G(z[sample : sample + 1])[0])
        x = z[sample].clone().requires_grad_()
        exact = torch.autograd.functional.hessian(lambda x, p=p: G(x[None]).flatten()[p], x)
        assert torch.allclose(element.hessian, exact.abs(), rtol=1e-6, atol=1e-8)
    assert off_diagonal_squares(found.largest.hessian).item() == pytest.approx(penalties.max().item())
    assert pixel_hessians(G, z, seed=5).random.image is not found.random.image


def test_known_penalties_are_taken_as_they_are():
    G, z = Cubic(), Cubic().sample_latents(2, torch.Generator().manual_seed(3))
    penalties = torch.zeros(2, 2, 1, 2)
    penalties[1, 0, 0, 1] = 1
    largest = pixel_hessians(G, z, penalties=penalties).largest
    assert (largest.channel, largest.row, largest.column) == (0, 0, 1)
    assert torch.equal(largest.image, G(z[1:])[0])


def test_a_single_latent_is_refused():
    with pytest.raises(UserError, match="A generator of one latent has no penalty"):
        element_penalties(Square(), torch.ones(2, 1))
