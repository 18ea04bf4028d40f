import math

import pytest
import torch

from hessian_penalty.directions.method import Space
from hessian_penalty.directions.sketches import hessian_sketches
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import as_generator


class Smooth:
    """A smooth generator of 2×3 grey images in float64, whose element Hessians autodiff gives."""

    latent_dim = 4

    def __init__(self):
        rng = torch.Generator().manual_seed(0)
        self.first = torch.randn(4, 8, generator=rng, dtype=torch.float64) / 2
        self.second = torch.randn(8, 6, generator=rng, dtype=torch.float64)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 4, generator=rng, dtype=torch.float64)

    def __call__(self, z):
        return (torch.tanh(z @ self.first) @ self.second).reshape(-1, 1, 2, 3)


def sketches(G, z, *, along=None, epsilon=0.1, seed=2):
    n = z.shape[1]
    along = torch.eye(n, dtype=torch.float64) if along is None else along
    seeds = torch.randint(2**31, (len(z),), generator=torch.Generator().manual_seed(seed))
    space = Space(as_generator(G, n), torch.eye(n, dtype=torch.float64))
    return hessian_sketches(space, z, {}, along=along, epsilon=epsilon, seeds=seeds)


def exact_hessians(G, z):
    """(6, n, n) at one latent."""
    return torch.func.hessian(lambda point: G(point[None]).flatten())(z)


@pytest.mark.parametrize("basis_seed", [None, 5])
def test_a_sketch_is_a_signed_sum_of_element_hessians(basis_seed):
    """With ε → 0 each sketch equals Σ ±H_p for some of the 64 sign vectors (up to the overall sign)."""
    G = Smooth()
    z = G.sample_latents(3, torch.Generator().manual_seed(1))
    basis = torch.eye(4, dtype=torch.float64)
    if basis_seed is not None:
        rng = torch.Generator().manual_seed(basis_seed)
        basis = torch.linalg.qr(torch.randn(4, 4, generator=rng, dtype=torch.float64))[0]
    found = sketches(G, z, along=basis, epsilon=1e-4)
    signs = torch.tensor([[1 - 2 * (code >> p & 1) for p in range(6)] for code in range(64)], dtype=torch.float64)
    for sketch, point in zip(found, z, strict=True):
        sums = torch.einsum("sp,pij->sij", signs, basis @ exact_hessians(G, point) @ basis.T)
        assert float((sums - sketch).abs().amax(dim=(1, 2)).min()) < 1e-6
        assert torch.equal(sketch, sketch.T)


def test_squared_entries_average_to_the_sum_over_elements():
    """E_r[H_ij²] = Σ_p H_p,ij², by a z-score over a fixed number of draws."""
    G, draws = Smooth(), 2000
    z = G.sample_latents(1, torch.Generator().manual_seed(1))
    expected = exact_hessians(G, z[0]).square().sum(0)
    found = sketches(G, z.expand(draws, 4), epsilon=1e-3, seed=3).square()
    score = (found.mean(0) - expected) / (found.std(0) / math.sqrt(draws))
    assert float(score.abs().max()) < 4.5


def test_a_sketch_does_not_depend_on_the_others():
    G = Smooth()
    z, seeds = G.sample_latents(5, torch.Generator().manual_seed(1)), torch.arange(5)
    space, eye = Space(G, torch.eye(4, dtype=torch.float64)), torch.eye(4, dtype=torch.float64)
    whole = hessian_sketches(space, z, {}, along=eye, epsilon=0.1, seeds=seeds)
    part = hessian_sketches(space, z[3:], {}, along=eye, epsilon=0.1, seeds=seeds[3:])
    assert torch.allclose(whole[3:], part, rtol=0, atol=1e-12)


def test_some_directions_give_a_part_of_the_matrix():
    G = Smooth()
    z = G.sample_latents(3, torch.Generator().manual_seed(1))
    part = sketches(G, z, along=torch.eye(4, dtype=torch.float64)[1:3], epsilon=1e-4)
    assert torch.allclose(part, sketches(G, z, epsilon=1e-4)[:, 1:3, 1:3], rtol=0, atol=1e-6)


def test_noise_that_the_generator_draws_is_the_same_at_every_corner():
    """Dropout moves the images by far more than the steps do; held fixed, a linear generator has no curvature."""
    torch.manual_seed(0)
    linear = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(), torch.nn.Linear(64, 6)).double()
    z = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(sketches(linear, z, epsilon=1e-2).abs().max()) < 1e-9


def test_sees_the_curvature_of_kinks():
    """|z0 + z1| has no autodiff Hessian; a difference of gradients across the kink gives 2 / 2ε in every entry."""

    def G(z):
        return (z[:, 0] + z[:, 1]).abs().reshape(-1, 1, 1, 1)

    found = sketches(G, torch.zeros(1, 2, dtype=torch.float64))
    assert torch.allclose(found.abs(), torch.full((1, 2, 2), 10.0, dtype=torch.float64))


def test_refuses_a_generator_without_gradient():
    def G(z):
        return torch.zeros(len(z), 1, 2, 2)

    with pytest.raises(UserError, match="gives no gradient .* 'orojar'"):
        sketches(G, torch.zeros(1, 2))
