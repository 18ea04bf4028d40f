import math

import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.metrics.path_length import PathLength, path_length, slerp

ALL = (0.0, 100.0)


class Squared:
    """The plain squared distance of images, with what it returned."""

    name, input_pixels = "squared", 0

    def __init__(self):
        self.values = []

    def __call__(self, images_a, images_b):
        values = (images_a - images_b).square().sum(dim=(1, 2, 3))
        self.values += values.tolist()
        return values


class Linear:
    """Images A z of four pixels; keeps the latents that it was called with."""

    latent_dim = 3

    def __init__(self, scale=1.0):
        rows = [[1.0, 2.0, 0.0], [0.0, 1.0, -1.0], [3.0, 0.0, 1.0], [0.0, 0.0, 2.0]]
        self.A = scale * torch.tensor(rows, dtype=torch.float64)
        self.seen = []

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng, dtype=torch.float64)

    def __call__(self, z, gain=None):
        self.seen.append(z)
        images = (z @ self.A.T)[:, None, None, :]
        return images if gain is None else images * gain[:, None, None, None]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sampled(G, pairs):
    """The two ends of every path."""
    rng = seeded()
    return G.sample_latents(pairs, rng).double().numpy(), G.sample_latents(pairs, rng).double().numpy()


def textbook_slerp(a, b, t):
    """Of unit rows: (sin((1 - t)θ) a + sin(tθ) b) / sin θ."""
    theta = np.arccos((a * b).sum(axis=1, keepdims=True))
    return (np.sin((1 - t) * theta) * a + np.sin(t * theta) * b) / np.sin(theta)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_linear_generator_has_its_closed_form_by_z_score():
    """E|A z'|² = E[θ²] E|z|² |A|² / n, and in three dimensions θ has the density sin(θ) / 2: E[θ²] = (π² - 4) / 2."""
    G, distance = Linear(), Squared()
    found = path_length(G, distance, pairs=20_000, batch_size=20_000, rng=seeded(), trim=ALL)
    expected = (math.pi**2 - 4) / 2 * float(G.A.square().sum())
    error = np.std(distance.values) / 1e-4**2 / math.sqrt(20_000)
    assert error < 0.02 * expected
    assert abs(found.mean - expected) < 4 * error
    assert (found.pairs, found.epsilon) == (20_000, 1e-4)


def test_every_pair_is_a_step_along_the_textbook_slerp():
    """In float64 at a step large enough for the textbook's formula; at the length of the path's first latent."""
    G, distance = Linear(), Squared()
    path_length(G, distance, pairs=50, epsilon=0.01, rng=seeded())
    first, second = sampled(G, 50)
    length = np.linalg.norm(first, axis=1, keepdims=True)
    moved = length * textbook_slerp(unit(first), unit(second), 0.01)
    expected = np.square((moved - first) @ G.A.numpy().T).sum(axis=1)
    assert np.allclose(distance.values, expected, rtol=1e-9)
    seen = torch.cat([points.unflatten(0, (2, -1)) for points in G.seen], dim=1).numpy()
    assert np.array_equal(seen[0], first)
    assert np.allclose(np.linalg.norm(seen[1], axis=1, keepdims=True), length, rtol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_goes_all_the_way(t):
    first, second = (torch.randn(20, 5, generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))
    found = slerp(first, second, t).numpy()
    length = first.norm(dim=1, keepdim=True).numpy()
    expected = textbook_slerp(unit(first.numpy()), unit(second.numpy()), t)
    assert np.allclose(found, length * expected, rtol=1e-10, atol=1e-12)


def test_a_small_slerp_keeps_its_digits_in_float32():
    """What is added is right to some roundings of the latent, a millionth of a step of 1e-4 · θ · |z| each."""
    first, second = (torch.randn(200, 12, generator=seeded(seed)) for seed in (0, 1))
    step = slerp(first, second, 1e-4).double() - first.double()
    exact = slerp(first.double(), second.double(), 1e-4) - first.double()
    assert float(((step - exact).norm(dim=1) / exact.norm(dim=1)).max()) < 3e-3


def test_parallel_and_zero_latents_do_not_move():
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert torch.equal(slerp(z, 3 * z, 0.5), z)


@pytest.mark.parametrize("normalize", [True, False])
def test_with_pixel_norm_it_is_the_published_form_on_unit_latents(normalize):
    """Without it, and with biases that tell the latents' lengths, the published form is another."""
    torch.manual_seed(0)
    G = ProGANGenerator(ProGANConfig(4, (8, 8), normalize_latent=normalize)).double().requires_grad_(False)
    torch.nn.init.normal_(G.first_linear.bias)
    found = path_length(G, Squared(), pairs=60, rng=seeded(), trim=ALL).mean
    first, second = map(unit, sampled(G, 60))
    images = [G(torch.from_numpy(unit(textbook_slerp(first, second, t)))) for t in (0.0, 1e-4)]
    published = float((images[0] - images[1]).square().sum(dim=(1, 2, 3)).mean()) / 1e-4**2
    assert (found == pytest.approx(published, rel=1e-5)) is normalize


def test_float32_is_precise_enough_for_the_published_step():
    torch.manual_seed(0)
    G = ProGANGenerator(ProGANConfig(12, (16, 16, 16))).requires_grad_(False)
    single = path_length(G, Squared(), pairs=100, rng=seeded()).mean
    double = path_length(G.double(), Squared(), pairs=100, rng=seeded()).mean
    assert single == pytest.approx(double, rel=0.01)
    assert single != double


def test_a_constant_generator_has_none():
    assert path_length(Linear(0.0), Squared(), pairs=10) == PathLength(0.0, 10, 1e-4)


def test_scale_squares():
    one, three = (path_length(Linear(scale), Squared(), pairs=200, rng=seeded()).mean for scale in (1.0, 3.0))
    assert three == pytest.approx(9 * one, rel=1e-6)


def test_equal_seeds_equal_values_at_any_batch_size():
    found = [
        path_length(Linear(), Squared(), pairs=150, batch_size=size, rng=seeded()).mean for size in (1, 7, 64, 999)
    ]
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)
    again, other = (path_length(Linear(), Squared(), pairs=150, rng=seeded(seed)).mean for seed in (0, 1))
    assert again == found[1]
    assert other != pytest.approx(again, rel=1e-3)


def test_batch_size_counts_latents():
    G = Linear()
    path_length(G, Squared(), pairs=50, batch_size=20)
    assert [len(z) for z in G.seen] == [20] * 5


class Given(Squared):
    """Distances that are known, in the order of the pairs."""

    def __init__(self, values):
        self.left = torch.as_tensor(values, dtype=torch.float64) * 1e-4**2

    def __call__(self, images_a, images_b):
        values, self.left = self.left[: len(images_a)], self.left[len(images_a) :]
        return values


def test_what_lies_outside_the_percentiles_is_left_out():
    """Of 200 distances the least and the largest; the percentiles are rounded outwards to distances that are there."""
    values = np.arange(200.0)
    values[[0, 199]] = -1e12, 1e15
    values = np.random.default_rng(0).permutation(values)
    assert path_length(Linear(), Given(values), pairs=200).mean == pytest.approx(np.arange(1, 199).mean(), rel=1e-9)
    assert path_length(Linear(), Given(values), pairs=200, trim=ALL).mean == pytest.approx(values.mean(), rel=1e-9)
    middle = np.arange(49, 151)  # 0.25 · 199 = 49.75 and 0.75 · 199 = 149.25
    found = path_length(Linear(), Given(values), pairs=200, trim=(25.0, 75.0))
    assert found.mean == pytest.approx(middle.mean(), rel=1e-9)


def test_up_to_a_hundred_pairs_all_count():
    assert path_length(Linear(), Given([0.0] * 99 + [1e6]), pairs=100).mean == pytest.approx(1e4)
    assert path_length(Linear(), Given([0.0] * 100 + [1e6]), pairs=101).mean == 0


def test_conditions_follow_their_pairs():
    G, distance, plain = Linear(), Squared(), Squared()
    gain = torch.arange(30, dtype=torch.float64)
    path_length(G, distance, pairs=30, batch_size=14, rng=seeded(), gain=gain)
    path_length(G, plain, pairs=30, batch_size=14, rng=seeded())
    assert np.allclose(distance.values, np.array(plain.values) * gain.numpy() ** 2, rtol=1e-6)
    with pytest.raises(TypeError, match="`gian` is neither an option here nor an argument of G"):
        path_length(G, distance, pairs=30, gian=gain)


def test_noise_is_the_same_at_both_ends():
    class Noisy(Linear):
        def __call__(self, z):
            images = super().__call__(z)
            return images + torch.randn(images.shape, dtype=images.dtype)

    noisy, still = (path_length(G, Squared(), pairs=40, rng=seeded()).mean for G in (Noisy(), Linear()))
    assert noisy == pytest.approx(still, rel=1e-6)


class OneLatent(Linear):
    latent_dim = 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pairs": 1}, "pairs must be a finite number at least 2, got 1"),
        ({"batch_size": 0}, "batch_size must be a finite number at least 1, got 0"),
        ({"epsilon": 0.0}, "epsilon must be above 0 and at most 1, got 0"),
        ({"epsilon": 1.5}, "epsilon must be above 0 and at most 1, got 1.5"),
        ({"epsilon": math.nan}, "epsilon must be above 0 and at most 1, got nan"),
        ({"trim": (99.0, 1.0)}, r"two ascending percentiles in \[0, 100\], got 99 and 1"),
        ({"trim": (-1.0, 99.0)}, r"in \[0, 100\], got -1 and 99"),
        ({"trim": (1.0, 101.0)}, r"in \[0, 100\], got 1 and 101"),
        ({"G": OneLatent()}, "at least 2 latent components to turn between, got 1"),
    ],
)
def test_errors(given, message):
    with pytest.raises(UserError, match=message):
        path_length(**{"G": Linear(), "distance": Squared(), **given})


def test_a_distance_that_averages_is_refused():
    class Averaging(Squared):
        def __call__(self, images_a, images_b):
            return super().__call__(images_a, images_b).mean()

    with pytest.raises(UserError, match=r"one value for each of 10 pairs, got the shape \(\)"):
        path_length(Linear(), Averaging(), pairs=10)
