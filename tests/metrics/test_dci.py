import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import norm, ortho_group
from sklearn.ensemble import GradientBoostingRegressor

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.dci import DCI, Importances, dci, factor_importances


def named(*kinds):
    return [Factor(name, kind, np.zeros(1)) for name, kind in kinds]


def scores(matrix, factors, groups=None):
    return dci(Importances(np.array(matrix, dtype=np.float64), np.ones(len(factors))), factors, groups)


PLANE = named(("x", "continuous"), ("y", "continuous"), ("size", "continuous"))
HUE = named(("hue", "circular"), ("size", "continuous"))


def test_scores_of_matrices_known_by_hand():
    assert scores(np.eye(4, 3), PLANE) == DCI(1.0, 1.0, 1.0)
    assert scores(np.full((4, 3), 0.25), PLANE) == pytest.approx((0, 0, 1), abs=1e-12)
    # one latent has x and half of y: D weighs 1.5 of 3 with 1 - H(2/3, 1/3)/log 3; C loses log 2 / log 4 in y
    mixed = scores([[1, 0.5, 0], [0, 0.5, 0], [0, 0, 1], [0, 0, 0]], PLANE)
    entropy = np.log(3) - 2 / 3 * np.log(2)
    assert mixed.disentanglement == pytest.approx(0.5 * (1 - entropy / np.log(3)) + 0.5, abs=1e-12)
    assert mixed.completeness == pytest.approx((1 + 0.5 + 1) / 3, abs=1e-12)


def test_a_group_counts_as_one_factor():
    turned = [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1], [0, 0, 0]]
    assert scores(turned, PLANE, [("x", "y")]) == pytest.approx((1, 1, 1), abs=1e-12)
    assert scores(turned, PLANE, []) == scores(turned, PLANE)
    assert scores(np.full((4, 3), 0.25), PLANE, [("x", "y")]).disentanglement == pytest.approx(0, abs=1e-12)
    # size shares the latents of the group: base 2, the number of groups
    mixed = scores([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 0], [0, 0, 0]], PLANE, [("x", "y")])
    assert mixed.disentanglement == pytest.approx(0, abs=1e-12)
    assert mixed.completeness == pytest.approx((1 + 0.5) / 2, abs=1e-12)


def test_a_group_is_complete_in_the_latents_that_it_is_entitled_to():
    spread = [[0.4, 0], [0.4, 0], [0.2, 0], [0, 1]]
    entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    assert scores(spread, HUE, []).completeness == pytest.approx((1 - entropy / np.log(3) + 1) / 2, abs=1e-12)
    assert scores(spread, HUE).completeness < scores(spread, HUE, []).completeness
    assert scores([[0.5, 0], [0.5, 1]], HUE, []).completeness == 1.0  # two latents, entitled to both


def test_one_factor_cannot_be_mixed_and_nothing_predicted_scores_0():
    assert scores([[0.5], [0.5]], PLANE[:1]) == pytest.approx((1, 0, 1), abs=1e-12)
    assert scores(np.zeros((3, 3)), PLANE)[:2] == (0.0, 0.0)
    assert scores(np.zeros((3, 2)), HUE, [])[:2] == (0.0, 0.0)


def code(count=2000, n=6):
    z = np.random.default_rng(0).standard_normal((count, n))
    return z, [
        Factor("x", "continuous", norm.cdf(z[:, 5])),
        Factor("shape", "categorical", np.digitize(z[:, 0], [-0.4, 0.4]) + 3),
        Factor("hue", "circular", np.arctan2(z[:, 2], z[:, 1]) / (2 * np.pi) % 1),
    ]


def test_trees_find_the_latents_of_a_factorised_code():
    z, factors = code()
    found = factor_importances(z, factors)
    assert found.matrix.sum(axis=0) == pytest.approx(np.ones(3))
    assert found.matrix[5, 0] > 0.99 and found.matrix[0, 1] > 0.97
    assert found.matrix[[1, 2], 2] == pytest.approx([0.5, 0.5], abs=0.05)
    assert found.informativeness.min() > 0.95
    strict, grouped = dci(found, factors), dci(found, factors, [])
    assert strict.disentanglement > 0.97 and grouped.completeness > 0.95
    assert strict.completeness == pytest.approx((1 + 1 + 1 - np.log(2) / np.log(6)) / 3, abs=0.03)


def test_seeds_repeat_and_matter_and_permuted_latents_permute_the_rows():
    z, factors = code(600)
    found = factor_importances(z, factors[:1], seed=1)
    again, other = factor_importances(z, factors[:1], seed=1), factor_importances(z, factors[:1], seed=2)
    assert np.array_equal(found.matrix, again.matrix) and not np.array_equal(found.matrix, other.matrix)
    turned = factor_importances(z[:, ::-1], factors[:1], seed=1)
    assert np.allclose(turned.matrix[::-1], found.matrix, atol=0.02)
    assert np.allclose(turned.informativeness, found.informativeness, atol=0.02)


def test_shuffled_factors_are_not_predicted():
    z, factors = code(1500)
    found = factor_importances(np.random.default_rng(1).permutation(z), factors)
    assert (found.informativeness >= 0).all() and found.informativeness.max() < 0.05
    assert dci(found, factors).disentanglement < 0.05 and dci(found, factors).completeness < 0.05


def test_random_rotations_score_as_random_shares_do():
    """Squared entries of a random rotation are nearly Dirichlet(1/2) shares, mean entropy psi(m/2 + 1) - psi(3/2)."""
    z = np.random.default_rng(0).standard_normal((2000, 12))
    factors = [Factor(name, "continuous", z[:, column]) for column, name in enumerate("abc")]
    found = [dci(factor_importances(z @ ortho_group.rvs(12, random_state=s), factors), factors)[:2] for s in range(5)]
    expected = [1 - (digamma(m / 2 + 1) - digamma(1.5)) / np.log(m) for m in (3, 12)]  # 0.39, 0.26
    assert np.mean(found, axis=0) == pytest.approx(expected, abs=0.1)  # one rotation deviates by about 0.06


def test_informativeness_is_held_out_and_above_the_best_guess():
    """Flipping 20% of a category of mass 1/2 leaves 20% of the errors 0.2 against a guess's 0.5."""
    z, _ = code(6000)
    shape = (z[:, 0] > 0).astype(np.int64) ^ (np.random.default_rng(2).random(6000) < 0.2)
    x = z[:, 1] + 0.5 * np.random.default_rng(3).standard_normal(6000)  # R² of 0.8 at best
    found = factor_importances(z, [Factor("shape", "categorical", shape), Factor("x", "continuous", x)])
    assert found.informativeness == pytest.approx([0.6, 0.8], abs=0.04)


def test_what_does_not_vary_scores_0():
    z, factors = code(400)
    rare = np.zeros(400, np.int64)
    rare[np.random.default_rng(0).permutation(400)[-1]] = 1  # in the half that tests, alone
    constant = [
        Factor("y", "continuous", np.full(400, 0.1)),
        Factor("size", "categorical", np.full(400, 7)),
        Factor("tint", "circular", np.full(400, 0.9)),
        Factor("rare", "categorical", rare),
    ]
    found = factor_importances(z, [*constant, factors[0]])
    assert not found.matrix[:, :4].any() and not found.informativeness[:4].any()
    assert dci(found, [*constant, factors[0]]).completeness == pytest.approx(found.matrix[5, 4] / 5, abs=0.02)


def test_of_many_images_4000_train(monkeypatch):
    fit, trained_with = GradientBoostingRegressor.fit, []

    def fit_few(model, columns, target):
        trained_with.append(len(columns))
        return fit(model, columns[:100], target[:100])

    monkeypatch.setattr(GradientBoostingRegressor, "fit", fit_few)
    z, factors = code(20_000)
    factor_importances(z, factors[:1])
    factor_importances(z[:500], [Factor("x", "continuous", factors[0].values[:500])])
    assert trained_with == [4000, 250]


def test_mistakes_are_refused():
    with pytest.raises(UserError, match="at least 100 images"):
        factor_importances(np.zeros((50, 2)), [Factor("x", "continuous", np.zeros(50))])
    with pytest.raises(UserError, match="got 'z'"):
        scores(np.eye(3), PLANE, [("x", "z")])
