import pytest
import torch

from hessian_penalty.metrics.interactions import hessian_statistics
from hessian_penalty.penalty import off_diagonal_share


class Quadratic:
    """Every element p of the 1×2×2 image is ½ zᵀ H_p z."""

    latent_dim = 3

    def __init__(self):
        x = torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.hessians = x + x.transpose(1, 2)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng, dtype=torch.float64)

    def __call__(self, z):
        return 0.5 * torch.einsum("ni,pij,nj->np", z, self.hessians, z).reshape(-1, 1, 2, 2)


@pytest.mark.parametrize("batch_size", [1, 7, 512])
def test_quadratic_forms_have_their_own_entries(batch_size):
    G = Quadratic()
    energy, magnitude = hessian_statistics(G, G.sample_latents(5), batch_size=batch_size)
    assert torch.allclose(energy, G.hessians.square().mean(0), rtol=1e-8)
    assert torch.allclose(magnitude, G.hessians.abs().mean(0), rtol=1e-8)


def test_in_the_eigenbasis_of_one_form_nothing_is_off_the_diagonal():
    G = Quadratic()
    G.hessians = G.hessians[:1].expand(4, 3, 3)
    basis = torch.linalg.eigh(G.hessians[0]).eigenvectors.T
    energy, *_ = hessian_statistics(G, G.sample_latents(2), basis=basis)
    assert off_diagonal_share(energy) < 1e-12
    given, *_ = hessian_statistics(G, G.sample_latents(2))
    assert off_diagonal_share(given) > 0.1
