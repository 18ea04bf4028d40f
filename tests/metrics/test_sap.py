import numpy as np
import pytest
from scipy.stats import norm, ortho_group
from sklearn.linear_model import LinearRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import NearestCentroid

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.sap import attribute_predictability, sap


@pytest.fixture
def z():
    return np.random.default_rng(0).standard_normal((2000, 5))


def test_a_factorised_linear_code_scores_1(z):
    z[:, 2] = np.random.default_rng(1).choice([-5.0, 0.0, 9.0], 2000)
    factors = [
        Factor("x", "continuous", 3 - 2 * z[:, 4]),
        Factor("shape", "categorical", np.digitize(z[:, 2], [-1, 1])),
    ]
    assert 0.97 < sap(z, factors) <= 1


def test_regressions_agree_with_scikit_learn(z):
    x, hue = z[:, 0] + 0.5 * z[:, 1] ** 2, norm.cdf(z[:, 2])
    found = attribute_predictability(z, [Factor("x", "continuous", x), Factor("hue", "circular", hue)])
    circle = np.stack([np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)], axis=1)
    for latent in range(5):
        column = z[:, latent : latent + 1]
        assert found[latent, 0] == pytest.approx(LinearRegression().fit(column, x).score(column, x), abs=1e-12)
        assert found[latent, 1] == pytest.approx(
            LinearRegression().fit(column, circle).score(column, circle), abs=1e-12
        )


def test_cosine_and_sine_hold_half_of_a_circle_each(z):
    hue = np.random.default_rng(1).random(2000)
    z[:, 0], z[:, 1] = np.cos(2 * np.pi * hue), 4 * np.sin(2 * np.pi * hue)
    found = attribute_predictability(z, [Factor("hue", "circular", hue)])[:, 0]
    assert found[:2] == pytest.approx([0.5, 0.5], abs=0.005)
    assert found[2:].max() < 0.01


def test_classification_agrees_with_scikit_learn(z):
    shape = np.digitize(z[:, 1] + z[:, 3], [-1.5, 0.5]) + 4  # masses 0.14, 0.5, 0.36
    found = attribute_predictability(z, [Factor("shape", "categorical", shape)], seed=3)[:, 0]
    half = np.random.default_rng(3).permutation(2000) % 2 == 0
    for latent in range(5):
        column = z[:, latent : latent + 1]
        guess = NearestCentroid().fit(column[half], shape[half]).predict(column[~half])
        assert found[latent] == pytest.approx(max(balanced_accuracy_score(shape[~half], guess, adjusted=True), 0))
    assert found[1] > 0.2 > 0.05 > found[0]


def test_the_gap_is_between_the_best_two(z):
    x = 2 * z[:, 0] + z[:, 3]
    z[:, 1] = 0
    assert sap(z, [Factor("x", "continuous", x)]) == pytest.approx(0.8 - 0.2, abs=0.05)


def test_rotated_or_shuffled_codes_score_near_0(z):
    factors = [Factor("x", "continuous", z[:, 0]), Factor("shape", "categorical", (z[:, 1] > 0).astype(np.int64))]
    assert sap(z @ ortho_group.rvs(5, random_state=1), factors) < 0.25 < 0.9 < sap(z, factors)
    assert sap(np.random.default_rng(1).permutation(z), factors) < 0.03


def test_the_order_of_latents_does_not_matter_and_seeds_repeat(z):
    factors = [Factor("x", "continuous", z[:, 0]), Factor("shape", "categorical", (z[:, 1] > 0).astype(np.int64))]
    found = attribute_predictability(z, factors, seed=1)
    assert np.allclose(attribute_predictability(z[:, ::-1], factors, seed=1), found[::-1], rtol=1e-12)
    assert sap(z, factors, seed=1) == sap(z, factors, seed=1) != sap(z, factors, seed=2)


def test_what_does_not_vary_scores_0(z):
    z[:, 0] = 7.0
    factors = [
        Factor("x", "continuous", np.full(2000, 0.1)),
        Factor("hue", "circular", np.full(2000, 0.3)),
        Factor("shape", "categorical", np.full(2000, 2)),
        Factor("rare", "categorical", np.eye(1, 2000, dtype=np.int64)[0]),
    ]
    assert not attribute_predictability(z, factors).any()
    assert attribute_predictability(z, [Factor("y", "continuous", z[:, 1])])[0, 0] == 0.0


def test_mistakes_are_refused(z):
    with pytest.raises(UserError, match="at least one factor"):
        sap(z, [])
