import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.feature_selection import mutual_info_classif
from sklearn.metrics import mutual_info_score

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.mutual_information import (
    entitled_latents,
    entropy,
    equal_mass_bins,
    factor_cells,
    grouped_columns,
    joint_mutual_information,
    latent_columns,
    mutual_information,
    mutual_information_map,
)


def continuous(values, name="x"):
    return Factor(name, "continuous", values)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("count", [100, 101, 119, 1000])
def test_bins_of_different_values_are_of_equal_mass_and_in_order(rng, count):
    values = rng.standard_cauchy(count)
    bins = equal_mass_bins(values)
    counts = np.bincount(bins)
    assert len(counts) == 20
    assert counts.max() - counts.min() <= 1
    assert (np.diff(bins[np.argsort(values)]) >= 0).all()


def test_equal_values_share_a_bin(rng):
    values = np.where(rng.random(1000) < 0.6, 0.0, rng.random(1000))
    bins = equal_mass_bins(values)
    assert len(np.unique(bins[values == 0])) == 1
    assert sorted(set(bins)) == list(range(bins.max() + 1))
    assert bins.max() + 1 in (8, 9)  # 40% of the mass lies beyond the zeros
    assert not equal_mass_bins(np.full(100, 3.0)).any()


def test_cells_keep_categories_and_multiply_in_groups(rng):
    shape = Factor("shape", "categorical", rng.integers(5, 8, 3000))
    hue = Factor("hue", "circular", rng.random(3000))
    x, y = continuous(rng.random(3000)), continuous(rng.random(3000), "y")
    assert np.array_equal(factor_cells([shape]), shape.values - 5)
    assert np.bincount(factor_cells([hue])).tolist() == [150] * 20
    cells = factor_cells([x, y])
    assert cells.max() + 1 == 25
    assert mutual_information(cells, equal_mass_bins(x.values, 5)) == pytest.approx(np.log(5), abs=1e-12)
    assert mutual_information(cells, equal_mass_bins(y.values, 5)) == pytest.approx(np.log(5), abs=1e-12)
    assert factor_cells([x, continuous(np.ones(3000), "y")]).max() + 1 == 5


def test_information_agrees_with_scikit_learn(rng):
    a, b = rng.integers(0, 6, 500), rng.integers(0, 9, 500)
    b[:250] = a[:250]
    assert mutual_information(a, b) == pytest.approx(mutual_info_score(a, b), rel=1e-12)
    assert mutual_information(a, b) == pytest.approx(mutual_information(b, a), rel=1e-12)


def test_entropy_has_its_closed_forms():
    assert entropy(np.arange(2000) % 20) == pytest.approx(np.log(20), rel=1e-12)
    assert entropy(np.array([0, 0, 0, 2])) == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25), rel=1e-12)
    assert entropy(np.full(100, 4)) == 0.0


def test_a_monotone_map_has_all_of_the_entropy(rng):
    z = rng.standard_normal((4000, 2))
    assert mutual_information_map(z, [continuous(np.exp(-z[:, 1]))])[1, 0] == pytest.approx(np.log(20), abs=1e-12)


def test_independent_cells_have_the_bias_of_chance(rng):
    """2NI follows chi-squared with 19 x 19 degrees of freedom, up to (21 x 21) / 6N of it at N = 20,000."""
    count, draws = 20_000, 30
    found = [mutual_information(equal_mass_bins(a), equal_mass_bins(b)) for a, b in rng.random((draws, 2, count))]
    expected, deviation = 361 / (2 * count), np.sqrt(2 * 361) / (2 * count) / np.sqrt(draws)
    assert abs(np.mean(found) - expected) < 4 * deviation + 0.004 * expected


@pytest.mark.parametrize("correlation", [0.5, 0.9])
def test_gaussians_have_their_closed_form(rng, correlation):
    """Bins lose a little, chance adds 361 / 2N."""
    count = 100_000
    z = rng.standard_normal((count, 2))
    x = correlation * z[:, 0] + np.sqrt(1 - correlation**2) * rng.standard_normal(count)
    found = mutual_information_map(z, [continuous(x)])[:, 0] - 361 / (2 * count)
    truth = -0.5 * np.log(1 - correlation**2)
    assert 0.93 * truth < found[0] < 1.01 * truth
    assert abs(found[1]) < 5 * np.sqrt(2 * 361) / (2 * count)


def test_the_map_is_of_latents_by_factors(rng):
    z = rng.standard_normal((500, 3))
    factors = [continuous(z[:, 2]), continuous(z[:, 0], "y")]
    found = mutual_information_map(z, factors)
    assert found.shape == (3, 2) and found.dtype == np.float64
    assert np.argmax(found, axis=0).tolist() == [2, 0]
    assert np.array_equal(mutual_information_map(z[:, [2, 0, 1]], factors), found[[2, 0, 1]])
    assert np.array_equal(mutual_information_map(torch.from_numpy(z).requires_grad_(), factors), found)


def test_neighbours_agree_with_scikit_learn_on_one_latent(rng):
    cells = rng.integers(0, 4, 800)
    cells[0] = 9  # alone: left out
    z = rng.standard_normal((800, 1)) + 0.7 * cells[:, None]
    jittered = rankdata(z[1:], axis=0) + np.random.default_rng(0).random((799, 1))  # as the function has it
    expected = mutual_info_classif(jittered, cells[1:], n_neighbors=3, discrete_features=False, random_state=0)
    assert joint_mutual_information(z, cells) == pytest.approx(expected[0], abs=1e-9)


def test_neighbours_see_what_is_only_in_the_combination(rng):
    z = rng.standard_normal((4000, 2))
    cells = (z.prod(axis=1) > 0).astype(np.int64)
    assert joint_mutual_information(z, cells) > 0.9 * np.log(2)
    assert joint_mutual_information(z[:, :1], cells) < 0.03


def test_neighbours_have_no_bias_on_independent_latents_and_stay_in_range(rng):
    cells = rng.integers(0, 25, 3000)
    assert joint_mutual_information(rng.standard_normal((3000, 2)), cells) < 0.04  # a 20 x 20 histogram has 1.6
    assert joint_mutual_information(np.zeros((3000, 2)), cells) < 0.04
    assert joint_mutual_information(np.repeat(cells[:, None], 2, axis=1) * 1.0, cells) <= entropy(cells)
    assert joint_mutual_information(rng.standard_normal((100, 2)), np.arange(100)) == 0.0


def test_neighbours_do_not_see_monotone_maps(rng):
    z = rng.standard_normal((500, 2))
    cells = equal_mass_bins(z.sum(axis=1), 5)
    found = joint_mutual_information(z, cells)
    assert joint_mutual_information(np.stack([np.exp(z[:, 0]), 1000 * z[:, 1] ** 3], axis=1), cells) == found


def test_groups_keep_the_order_of_the_factors():
    factors = [continuous(np.zeros(1), name) for name in ("y", "a", "x", "b")]
    assert grouped_columns(factors, []) == [[0], [1], [2], [3]]
    assert grouped_columns(factors, [("x", "y"), ()]) == [[0, 2], [1], [3]]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([("x", "z")], "must name factors among x, y, got 'z'"),
        ([("x", "y"), ("x",)], "must name a factor once, got 'x' 2 times"),
    ],
)
def test_groups_name_each_factor_once(groups, message):
    with pytest.raises(UserError, match=message):
        grouped_columns([continuous(np.zeros(1)), continuous(np.zeros(1), "y")], groups)


def test_a_circle_is_entitled_to_two_latents():
    values = np.zeros(1)
    assert entitled_latents([continuous(values), continuous(values, "y")]) == 2
    assert entitled_latents([Factor("hue", "circular", values)]) == 2
    assert entitled_latents([Factor("shape", "categorical", values)]) == 1


VALUES = np.arange(100.0)


@pytest.mark.parametrize(
    ("latents", "factors", "message"),
    [
        (np.zeros((100, 1)), [continuous(VALUES)], r"n at least 2, got \(100, 1\)"),
        (np.zeros(100), [continuous(VALUES)], r"n at least 2, got \(100,\)"),
        (np.zeros((99, 2)), [continuous(VALUES[1:])], "at least 100 images, got 99"),
        (np.zeros((100, 2)), [], "at least one factor, got none"),
        (np.zeros((100, 2)), [continuous(VALUES), continuous(VALUES)], "different names, got x, x"),
        (np.zeros((100, 2)), [continuous(VALUES[1:])], "'x' must have one value for each of the 100 latents, got 99"),
        (np.zeros((100, 2)), [continuous(np.where(VALUES == 3, np.nan, VALUES))], "'x' must hold finite numbers"),
        (np.full((100, 2), np.inf), [continuous(VALUES)], "`latents` must hold finite numbers"),
    ],
)
def test_what_cannot_be_scored_is_refused(latents, factors, message):
    with pytest.raises(UserError, match=message):
        latent_columns(latents, factors)
