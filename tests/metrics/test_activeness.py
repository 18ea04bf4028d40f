import math

import pytest
import torch

from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.metrics.activeness import activeness, activeness_published, effective_latents


class Linear:
    """Pixel p of the image is Σ_i gains[i] z_i: component i has activeness gains[i]² exactly (in expectation)."""

    latent_dim = 4
    gains = torch.tensor([2.0, 1.0, 0.5, 0.0], dtype=torch.float64)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 4, generator=rng, dtype=torch.float64)

    def __call__(self, z):
        return (z @ self.gains)[:, None, None, None].expand(-1, 3, 2, 2)


def test_general_form_of_a_linear_generator_by_z_score():
    """The sample variance of m normal draws has relative deviation sqrt(2 / (m - 1)) a sample."""
    samples, values = 2000, 4
    found = activeness(Linear(), samples=samples, values=values, rng=torch.Generator().manual_seed(0))
    tolerance = 4.5 * math.sqrt(2 / (values - 1) / samples)
    assert torch.allclose(found, Linear.gains.square(), rtol=tolerance, atol=0)
    assert float(found[3]) == 0


def test_published_form_of_a_linear_generator_is_exact():
    """The unbiased variance of -2, 0, 2 is 4."""
    found = activeness_published(Linear(), samples=5)
    assert torch.allclose(found, 4 * Linear.gains.square(), atol=1e-12)


def test_along_a_basis():
    """Along the generator's own direction everything moves; across it nothing does."""
    along = Linear.gains / Linear.gains.norm()
    across = torch.tensor([1.0, -2.0, 0.0, 0.0], dtype=torch.float64) / math.sqrt(5)
    found = activeness(Linear(), basis=torch.stack([along, across]), rng=torch.Generator().manual_seed(0))
    assert float(found[0]) == pytest.approx(5.25, rel=0.3)
    assert float(found[1]) < 1e-20


def test_coordinates_are_the_default_basis():
    first, second = (
        activeness(Linear(), samples=20, basis=basis, rng=torch.Generator().manual_seed(0))
        for basis in (None, torch.eye(4, dtype=torch.float64))
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("measure", [activeness, activeness_published])
def test_does_not_depend_on_the_batch_size(measure):
    first, second = (
        measure(Linear(), samples=30, batch_size=size, rng=torch.Generator().manual_seed(0)) for size in (4, 1000)
    )
    assert torch.allclose(first, second, rtol=1e-12)


def test_published_form_normalises_first_and_switches_the_generators_own_norm_off():
    torch.manual_seed(0)
    generator = ProGANGenerator(ProGANConfig(3, (8,))).requires_grad_(False)
    torch.nn.init.normal_(generator.first_linear.bias)  # else pixel norm hides the latent's size
    outside = activeness_published(generator, samples=10, rng=torch.Generator().manual_seed(1))
    assert generator.normalize_latent
    kept = activeness_published(generator, samples=10, rng=torch.Generator().manual_seed(1), keep_normalization=True)
    assert not torch.allclose(outside, kept, rtol=1e-3)

    z = generator.sample_latents(10, torch.Generator().manual_seed(1))
    z = z / z.square().mean(dim=1, keepdim=True).sqrt()
    generator.normalize_latent = False
    images = []
    for value in (-2.0, 0.0, 2.0):
        moved = z.clone()
        moved[:, 1] = value
        images.append(generator(moved))
    expected = torch.stack(images).var(dim=0).mean()
    assert float(outside[1]) == pytest.approx(float(expected), rel=1e-4)


def test_effective_latents():
    assert effective_latents(torch.ones(7)) == pytest.approx(7)
    assert effective_latents(torch.tensor([0.0, 3.0, 0.0])) == pytest.approx(1)
    assert effective_latents(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(16 / 6)
    assert effective_latents(torch.zeros(3)) == 0
