import numpy as np
import pytest
from scipy.stats import ortho_group

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.mig import grouped_mig, mig

TURN = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
POSITION = [("x", "y")]


def positions(x, y):
    return [Factor("x", "continuous", x), Factor("y", "continuous", y)]


@pytest.fixture
def z():
    return np.random.default_rng(0).standard_normal((2000, 8))


def test_a_factorised_code_scores_1(z):
    factors = [*positions(np.exp(z[:, 3]), -z[:, 1]), Factor("shape", "categorical", np.digitize(z[:, 0], [-0.5, 0.5]))]
    assert 0.9 < mig(z, factors) < 0.98  # chance: 361 / 2N of log 20 in the second latent; bins that shape cuts
    assert 0.9 < grouped_mig(z, factors, POSITION) < 0.98


def test_half_of_the_score_is_lost_where_half_of_the_factors_are_in_two_latents(z):
    z[:, 1] = z[:, 0]
    assert mig(z, positions(z[:, 0], z[:, 2])) == pytest.approx(mig(z, positions(z[:, 2], z[:, 2])[:1]) / 2, rel=0.02)


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
def test_turned_positions_count_in_the_group_alone(z, law):
    if law == "uniform":
        z[:, :2] = np.random.default_rng(1).uniform(-1, 1, (2000, 2))
    x, y = (z[:, :2] @ TURN).T
    assert mig(z, positions(x, y)) < 0.05
    assert grouped_mig(z, positions(x, y)) == mig(z, positions(x, y))
    assert grouped_mig(z, positions(x, y), POSITION) > 0.92
    assert grouped_mig(z, positions(z[:, 0], z[:, 1]), POSITION) > 0.94


@pytest.mark.parametrize("law", ["angle of two", "cosine and sine", "wrapped"])
def test_a_hue_may_take_two_latents_or_one(z, law):
    hue = np.arctan2(z[:, 1], z[:, 0]) / (2 * np.pi) % 1
    if law == "cosine and sine":
        z[:, :2] = np.stack([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)], axis=1)
    elif law == "wrapped":
        z[:, 0], z[:, 1] = hue, z[:, 7]
    found = [Factor("hue", "circular", hue)]
    assert grouped_mig(z, found) > 0.89
    assert (mig(z, found) > 0.9) == (law == "wrapped")


def test_a_group_spread_over_more_latents_than_it_is_entitled_to_loses(z):
    x, y = (z[:, :4] @ np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]])).T
    assert grouped_mig(z, positions(x, y), POSITION) < 0.1


def test_a_random_rotation_scores_near_0(z):
    turned = z @ ortho_group.rvs(8, random_state=0)
    factors = [*positions(z[:, 0], z[:, 1]), Factor("size", "continuous", z[:, 2])]
    assert mig(turned, factors) < 0.12 < 0.9 < mig(z, factors)
    assert grouped_mig(turned, factors, POSITION) < 0.25 < 0.9 < grouped_mig(z, factors, POSITION)


def test_shuffled_factors_score_0_up_to_bias(z):
    shuffled = np.random.default_rng(1).permutation(z)
    factors = [*positions(shuffled[:, 0], shuffled[:, 1]), Factor("hue", "circular", shuffled[:, 2] % 1)]
    assert 0 <= mig(z, factors) < 0.01
    assert 0 <= grouped_mig(z, factors, POSITION) < 0.01


def test_the_order_of_latents_does_not_matter(z):
    order = np.random.default_rng(2).permutation(8)
    factors = positions(z[:, 0] + z[:, 1] + 0.3 * z[:, 2], z[:, 3])
    assert mig(z[:, order], factors) == pytest.approx(mig(z, factors), abs=1e-12)
    assert grouped_mig(z[:, order], factors, POSITION) == pytest.approx(grouped_mig(z, factors, POSITION), abs=0.01)


def test_factors_that_do_not_vary_score_0(z):
    constant = [Factor("x", "continuous", np.full(2000, 0.3)), Factor("shape", "categorical", np.zeros(2000, np.int64))]
    assert mig(z, constant) == grouped_mig(z, constant) == 0.0
    alone = mig(z, positions(z[:, 0], z[:, 0])[:1])
    assert mig(z, [*constant, Factor("y", "continuous", z[:, 0])]) == pytest.approx(alone / 3)


def test_where_all_latents_are_entitled_nothing_is_held_against_the_group(z):
    assert grouped_mig(z[:, :2], positions(z[:, 0], z[:, 1]), POSITION) > 0.94


def test_mistakes_are_refused(z):
    with pytest.raises(UserError, match="n at least 2"):
        mig(z[:, :1], positions(z[:, 0], z[:, 1]))
    with pytest.raises(UserError, match="got 'hue'"):
        grouped_mig(z, positions(z[:, 0], z[:, 1]), [("x", "hue")])
