import math
import zlib

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


class Conditional(Linear):
    """Component i has the gain gains[i] · labels of the sample's own, and `offset` moves nothing."""

    def __init__(self):
        self.pairs = []

    def __call__(self, z, labels=None, offset=None):
        self.pairs.append((z, labels))
        gains = self.gains * (1 if labels is None else labels[:, None])
        return (z * gains).sum(1)[:, None, None, None].expand(-1, 3, 2, 2) + (0 if offset is None else offset.mean())


@pytest.mark.parametrize("batch_size", [4, 12, 20, 1000])
@pytest.mark.parametrize("measure", [activeness, activeness_published])
def test_conditions_follow_their_samples(measure, batch_size):
    """Labels that tell the sample: every latent comes with its own, as far as the components that stay tell."""
    samples = 11
    G, labels = Conditional(), torch.arange(1, samples + 1, dtype=torch.float64)
    z = G.sample_latents(samples, torch.Generator().manual_seed(0))
    measure(G, samples=samples, batch_size=batch_size, rng=torch.Generator().manual_seed(0), labels=labels)
    assert sum(len(points) for points, _ in G.pairs) == 4 * samples * (4 if measure is activeness else 3)
    for points, given in G.pairs:
        own = z[given.long() - 1]
        assert bool(((points - own).abs() < 1e-12).sum(dim=1).ge(3).all())


@pytest.mark.parametrize("batch_size", [4, 12, 1000])
def test_activeness_with_a_label_for_each_sample(batch_size):
    """-2, 0 and 2 have the variance 4, times the square of gain and label; its mean over the samples."""
    labels = torch.tensor([0.0, 1.0, 2.0, 5.0, 3.0], dtype=torch.float64)
    found = activeness_published(Conditional(), samples=5, batch_size=batch_size, labels=labels)
    assert torch.allclose(found, 4 * Linear.gains.square() * labels.square().mean(), rtol=1e-12)


@pytest.mark.parametrize("batch_size", [4, 16, 1000])
def test_other_conditions_reach_every_pass_as_they_are(batch_size):
    offset = torch.arange(3.0, dtype=torch.float64)
    with_offset, without = (
        activeness(Conditional(), samples=10, batch_size=batch_size, rng=torch.Generator().manual_seed(0), **given)
        for given in ({"offset": offset}, {})
    )
    assert torch.allclose(with_offset, without, rtol=1e-9)


def test_a_condition_as_long_as_a_chunk_stays_as_it_is():
    """16 latents a pass and value are 64 / 4: the default."""

    class Projected(Linear):
        latent_dim = 16

        def sample_latents(self, count, rng=None):
            return torch.randn(count, 16, generator=rng, dtype=torch.float64)

        def __call__(self, z, weight):
            return (z @ weight)[:, :, None, None]

    weight = torch.eye(16, dtype=torch.float64)
    assert torch.allclose(activeness(Projected(), samples=300, weight=weight).sum(), weight.new_tensor(1.0), rtol=0.2)


class Noisy(torch.nn.Module):
    """A linear map, noise that is added and dropout, with noise of its own for every sample."""

    latent_dim = 4

    def __init__(self, dropout):
        super().__init__()
        self.map = torch.nn.Linear(4, 12).double()
        self.dropout = torch.nn.Dropout(0.3) if dropout else torch.nn.Identity()

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 4, generator=rng, dtype=torch.float64)

    def forward(self, z):
        images = self.map(z)
        if self.training:
            images = self.dropout(images) + 10 * torch.randn_like(images)
        return images.reshape(-1, 3, 2, 2)


@pytest.mark.parametrize("measure", [activeness, activeness_published])
@pytest.mark.parametrize("batch_size", [4, 16, 1000])
def test_added_noise_is_no_activeness(measure, batch_size):
    """All values of a component see the same noise, whose variance of 100 is gone then."""
    torch.manual_seed(0)
    G = Noisy(dropout=False)
    noisy, still = (
        measure(G.train(on), samples=9, batch_size=batch_size, rng=torch.Generator().manual_seed(0))
        for on in (True, False)
    )
    assert torch.allclose(noisy, still, rtol=1e-9)


def test_with_dropout_it_is_that_of_the_noise_held_fixed():
    """The masks are those of a seed made from the first corner, whatever was drawn before; the global state stays."""
    torch.manual_seed(0)
    G, samples = Noisy(dropout=True), 7
    state = torch.get_rng_state()
    found = activeness(G, samples=samples, values=3, batch_size=1000, rng=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    rng = torch.Generator().manual_seed(1)
    z = G.sample_latents(samples, rng)
    draws = torch.randn(samples, 3, generator=rng).double()
    for component in range(4):
        row = torch.eye(4, dtype=torch.float64)[component]
        corners = z + (draws.T - z @ row)[:, :, None] * row
        images = []
        for moved in corners:
            torch.manual_seed(zlib.crc32(corners[0].numpy().tobytes()))
            images.append(G(moved))
        expected = torch.stack(images).var(dim=0).mean()
        assert float(found[component]) == pytest.approx(float(expected.detach()), rel=1e-9)
