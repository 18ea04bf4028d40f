import pytest
import torch
from torch import nn

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.reduction import drop_latents, image_change
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(n):
    return torch.linalg.qr(torch.randn(n, n, generator=seeded(), dtype=torch.float64))[0].contiguous()


def with_dead(matrix, live):
    """A network that reads only the first rows."""
    n = matrix.shape[1]
    G = nn.Sequential(nn.Linear(n, 16), nn.Tanh(), nn.Linear(16, 12), nn.Unflatten(1, (3, 2, 2))).double()
    with torch.no_grad():
        G[0].weight.copy_(G[0].weight @ matrix[:live].T @ matrix[:live])
    return G.requires_grad_(False)


def along(G, rows):
    return RotatedGenerator(G, rows)


def test_dead_latents_cost_nothing_and_live_ones_something():
    matrix = rotation(6)
    G = with_dead(matrix, live=4)
    w = torch.randn(7, 4, dtype=torch.float64)
    reduced, change = drop_latents(G, matrix, 4, rng=seeded())
    assert isinstance(reduced, nn.Sequential) and reduced[0].in_features == 4
    assert float((reduced(w) - G(w @ matrix[:4])).abs().max()) < 1e-12
    assert change.worst < 1e-6 and change.mean < 1e-6 and change.relative < 1e-6
    _, change = drop_latents(G, matrix, 3, rng=seeded())
    assert change.mean > 1e-3 and change.worst > change.mean and change.relative > 1e-2


def test_the_change_of_a_linear_generator_is_known():
    r"""Images (z_0, 2 z_1): dropping z_1 changes :math:`2 |z_1| / \sqrt 2`, of mean :math:`2 / \sqrt\pi`."""
    scale = torch.tensor([1.0, 2.0], dtype=torch.float64)
    G = FunctionGenerator(
        lambda z: (z * scale)[:, :, None, None], 2, lambda n, rng: torch.randn(n, 2, generator=rng).double()
    )
    samples = 4000
    change = image_change(
        G, along(G, torch.eye(2)[:1].double()), torch.eye(2)[:1].double(), rng=seeded(), samples=samples
    )
    z = G.sample_latents(samples, seeded())
    assert change.mean == pytest.approx(float(z[:, 1].abs().mean()) * 2**0.5, rel=1e-12)
    assert change.worst == pytest.approx(float(z[:, 1].abs().max()) * 2**0.5, rel=1e-12)
    error = (1 - 2 / torch.pi) ** 0.5 * 2**0.5 / samples**0.5
    assert abs(change.mean - 2 / torch.pi**0.5) / error < 4.5
    distance = ((z - z.roll(1, 0)) * scale).square().mean(dim=1).sqrt().mean()
    assert change.relative == pytest.approx(change.mean / float(distance), rel=1e-12)


def test_it_does_not_depend_on_the_batch_size_and_compares_under_the_same_conditions():
    class Labelled(nn.Module):
        def sample_labels(self, count, rng=None):
            return torch.arange(count)

        def forward(self, z, labels):
            return (z.sin() + 100 * labels[:, None])[:, :, None, None]

    G = FunctionGenerator(Labelled(), 3)
    changes = [
        image_change(
            G, along(G, torch.eye(3)[:2]), torch.eye(3)[:2], rng=seeded(), samples=10, batch_size=size, labels="random"
        )
        for size in (3, 10)
    ]
    assert changes[0] == changes[1]
    assert changes[0].relative > 0.1  # with other labels images would be hundreds apart


def test_noise_is_the_same_for_both_images():
    G = FunctionGenerator(lambda z: z[:, :1, None, None] + torch.randn(len(z), 1, 1, 1), 2)
    assert image_change(G, along(G, torch.eye(2)[:1]), torch.eye(2)[:1], rng=seeded(), samples=8).worst == 0


def test_a_constant_generator_changes_by_nothing():
    G = FunctionGenerator(lambda z: torch.ones(len(z), 3, 2, 2), 2)
    assert image_change(G, along(G, torch.eye(2)[:1]), torch.eye(2)[:1], rng=seeded(), samples=8).relative == 0


def test_normalised_latents_keep_their_spread():
    """A copy normalises the components left to what they had; G at the same w would make them longer."""
    torch.manual_seed(0)
    G = ProGANGenerator(ProGANConfig(6, (8, 8))).double()
    with torch.no_grad():
        G.first_linear.weight[:, 4:] = 0
        G.first_linear.bias.normal_()  # without it the norm that follows hides the change
    matrix = torch.eye(6, dtype=torch.float64)
    reduced, change = drop_latents(G, matrix, 4, rng=seeded(), samples=50)
    w = torch.randn(5, 4, dtype=torch.float64)
    normal = w * torch.rsqrt(w.square().mean(dim=1, keepdim=True) + 1e-8)
    longer = image_change(G, along(G, matrix[:4]), matrix[:4], rng=seeded(), samples=50)
    assert 1e-3 < change.mean < longer.mean
    G.normalize_latent = False
    assert float((reduced(w) - G(normal @ matrix[:4])).detach().abs().max()) < 1e-12
    assert drop_latents(G, matrix, 4, rng=seeded(), samples=50)[1].worst < 1e-12


def test_directions_are_taken_too():
    matrix = rotation(5)
    G = with_dead(matrix, live=2)
    reduced, change = drop_latents(G, Directions(matrix.float()), 2, rng=seeded(), samples=20)
    assert change.worst < 1e-6 and reduced[0].in_features == 2


@pytest.mark.parametrize(
    ("keep", "matrix", "settings", "message"),
    [
        (0, torch.eye(3), {}, r"`keep` must lie in \[1, 3\], the number of directions, got 0"),
        (4, torch.eye(3), {}, r"`keep` must lie in \[1, 3\]"),
        (2, torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.6, 0.0]]), {}, "orthonormal directions"),
        (2, torch.eye(3), {"samples": 1}, "samples must be a finite number at least 2"),
        (2, torch.eye(3), {"batch_size": 0}, "batch_size must be a finite number at least 1"),
        (2, torch.eye(3), {"labels": 1}, "`labels` is neither an option"),
        (2, torch.eye(4), {}, "must have 3 components"),
    ],
)
def test_refuses(keep, matrix, settings, message):
    G = FunctionGenerator(lambda z: z[:, :, None, None], 3)
    with pytest.raises(UserError, match=message):
        drop_latents(G, matrix, keep, rng=seeded(), **settings)
