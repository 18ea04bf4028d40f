import math

import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.metrics import predictability
from hessian_penalty.metrics.predictability import variation_predictability


class Patches:
    """Latent i lights column i of 8 pixels; those of `dead` do nothing."""

    def __init__(self, latent_dim=6, dead=(), size=8):
        self.latent_dim, self.size = latent_dim, size
        self.alive = torch.tensor([latent not in dead for latent in range(latent_dim)])

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng)

    def __call__(self, z):
        images = torch.zeros(len(z), 3, self.size, self.size)
        images[:, :, :, : self.latent_dim] = (z * self.alive)[:, None, None, :]
        return images


def deviations(found, expected):
    """z-score of a mean accuracy over independent held-out pairs."""
    held_out = 200 * len(found.accuracies)
    return (found.accuracy - expected) / math.sqrt(expected * (1 - expected) / held_out)


def test_a_patch_for_each_latent_is_told_by_place():
    found = variation_predictability(Patches(), pairs=400, repeats=2)
    assert found.accuracy > 0.97
    assert found.accuracy == pytest.approx(sum(found.accuracies) / 2)
    assert len(found.accuracies) == 2
    assert found.chance == pytest.approx(1 / 6)
    assert found.training_pairs == 200


def test_what_does_nothing_is_guessed():
    found = variation_predictability(Patches(dead=range(6)), pairs=400)
    assert len(found.accuracies) == 3
    assert abs(deviations(found, 1 / 6)) < 4


def test_one_dead_latent_is_told_by_its_emptiness_and_two_are_not_told_apart():
    one = variation_predictability(Patches(dead=[2]), pairs=400, repeats=1)
    assert one.accuracy > 0.97
    two = variation_predictability(Patches(dead=[2, 4]), pairs=400, repeats=2)
    assert abs(deviations(two, 5 / 6)) < 4


def test_only_the_given_latents_change():
    found = variation_predictability(Patches(dead=[2, 4]), pairs=400, repeats=1, latents=[5, 0, 1])
    assert found.accuracy > 0.97
    assert found.chance == pytest.approx(1 / 3)


class Recorded(Patches):
    """Keeps the latents that it was given."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.pairs = []

    def __call__(self, z):
        self.pairs.append(z.unflatten(0, (2, -1)))
        return super().__call__(z)


def test_pairs_differ_in_one_latent_drawn_from_minus_2_to_2():
    G = Recorded()
    variation_predictability(G, pairs=400, repeats=1, latents=[1, 3], batch_size=50)
    before, after = torch.cat(G.pairs, dim=1)
    different = before != after
    assert len(before) == 400 and bool((different.sum(dim=1) == 1).all())
    assert set(different.nonzero()[:, 1].tolist()) == {1, 3}
    redrawn = after[different]
    assert float(redrawn.abs().max()) < 2
    assert float(redrawn.abs().max()) > 1.9
    assert float(redrawn.var()) == pytest.approx(4 / 3, abs=4 * math.sqrt(16 / 5 - 16 / 9) / 20)
    assert float(before.var()) == pytest.approx(1, abs=0.15)
    assert max(pairs.shape[1] for pairs in G.pairs) == 25


def test_repeats_have_pairs_of_their_own_and_seeds_decide():
    G, again, other = Recorded(), Recorded(), Recorded()
    first = variation_predictability(G, pairs=40, repeats=2)
    assert variation_predictability(again, pairs=40, repeats=2) == first
    variation_predictability(other, pairs=40, repeats=2, seed=1)
    one, two = torch.cat(G.pairs, dim=1).split(40, dim=1)
    assert not torch.equal(one, two)
    assert torch.equal(torch.cat(again.pairs, dim=1), torch.cat(G.pairs, dim=1))
    assert not torch.equal(torch.cat(other.pairs, dim=1), torch.cat(G.pairs, dim=1))


def test_global_random_numbers_stay():
    state = torch.get_rng_state()
    variation_predictability(Patches(), pairs=20, repeats=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_does_not_depend_on_the_batch_size():
    first, second = (variation_predictability(Patches(), pairs=60, repeats=1, batch_size=size) for size in (7, 1000))
    assert first == second


@pytest.mark.parametrize(
    ("pairs", "fraction", "training"), [(2000, None, 1000), (10_000, None, 1000), (30, None, 15), (50, 0.2, 10)]
)
def test_a_thousand_pairs_or_half_are_learned_from(monkeypatch, pairs, fraction, training):
    counts = []
    monkeypatch.setattr(predictability, "train_network", lambda network, loss, count, **_: counts.append(count))
    found = variation_predictability(Patches(), pairs=pairs, repeats=1, train_fraction=fraction, batch_size=5000)
    assert counts == [training]
    assert found.training_pairs == training


def test_held_out_pairs_are_not_learned_from():
    """The image says nothing, noise of its own all: what was learned by heart is of no use."""

    class Noise(Patches):
        def __call__(self, z):
            return torch.sin(1e4 * z @ torch.ones(6, 192)).reshape(-1, 3, 8, 8) * torch.randn(3, 8, 8)

    found = variation_predictability(Noise(), pairs=400, repeats=2)
    assert abs(deviations(found, 1 / 6)) < 4.5


def test_both_images_of_a_pair_have_the_same_noise():
    class Noisy(Patches):
        def __call__(self, z):
            return super().__call__(z) + 100 * torch.randn(len(z), 3, 8, 8)

    assert variation_predictability(Noisy(), pairs=300, repeats=1).accuracy > 0.9


def test_large_images_are_averaged_and_small_ones_enlarged():
    images = torch.arange(2 * 3 * 128 * 128.0).reshape(2, 3, 128, 128)
    assert torch.allclose(predictability._seen(images), torch.nn.functional.avg_pool2d(images, 2))
    small = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    assert torch.equal(predictability._seen(small), small.repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert predictability._seen(torch.zeros(1, 1, 28, 40)).shape == (1, 1, 16, 16)


def test_faint_latents_count_like_strong_ones():
    """A hundredth of the strength would be lost beside the others; rounding is not made strong."""

    class Uneven(Patches):
        def __call__(self, z):
            return super().__call__(z * torch.tensor([1, 1, 1, 1, 0.02, 0.02]))

    assert variation_predictability(Uneven(), pairs=400, repeats=1).accuracy > 0.95


def test_conditions_follow_their_pairs():
    class Labelled(Patches):
        def __call__(self, z, labels):
            assert torch.equal(z[:, 0], labels)
            return super().__call__(z)

    G = Labelled()
    rng = torch.Generator().manual_seed(0)
    torch.randint(5, (40,), generator=rng)
    labels = G.sample_latents(40, rng)[:, 0]
    variation_predictability(G, pairs=40, repeats=1, latents=[1, 2, 3, 4, 5], batch_size=6, labels=labels)


@pytest.mark.parametrize("latents", [[0], [1, 1], [0, 6], [-1, 0], []])
def test_latents_that_cannot_be_told_apart_are_refused(latents):
    with pytest.raises(UserError, match=r"at least two different components in 0 ... 5, got \["):
        variation_predictability(Patches(), latents=latents)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 19}, "pairs must be a finite number at least 20, got 19"),
        ({"repeats": 0}, "repeats must be a finite number at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a finite number at least 1, got 0"),
        ({"train_fraction": 1.0}, r"train_fraction must be a finite number in \[0.001, 0.9995\], got 1"),
        ({"train_fraction": 0.0}, r"train_fraction must be a finite number in \[0.001, 0.9995\], got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        variation_predictability(Patches(), **settings)


def test_what_returns_no_images_is_refused():
    class Vectors(Patches):
        def __call__(self, z):
            return z

    with pytest.raises(UserError, match=r"needs images \(batch, channels, height, width\), got the shape \(10, 6\)"):
        variation_predictability(Vectors(), pairs=20, batch_size=20)
