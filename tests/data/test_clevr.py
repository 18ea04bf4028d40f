"""The laws of the CLEVR families: ranges, uniformity, independence, and the scene of a row."""

import itertools

import numpy as np
import pytest

from hessian_penalty.data.clevr import FAMILIES, POSITION_RANGE, SHAPES, Scene
from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError

COUNT = 20_000
MAX_Z = 4.0  # two-sided chance 6e-5 each; the seeds are fixed, so a pass stays one


def _draw(name: str) -> list[Factor]:
    return FAMILIES[name].draw(COUNT, np.random.default_rng(0))


def _unit(factor: Factor) -> np.ndarray:
    """A factor's values, uniform on [0, 1) if its law is what it says."""
    if factor.kind == "continuous":
        return (factor.values + POSITION_RANGE) / (2 * POSITION_RANGE)
    return factor.values / (len(factor.categories) if factor.categories else 1)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("clevr-simple", [("x", "continuous"), ("y", "continuous"), ("hue", "circular"), ("shape", "categorical")]),
        ("clevr-1fov", [("x", "continuous")]),
    ],
)
def test_names_kinds_and_ranges(name: str, factors: list[tuple[str, str]]) -> None:
    drawn = _draw(name)
    assert [(factor.name, factor.kind) for factor in drawn] == factors
    for factor in drawn:
        assert len(factor.values) == COUNT
        assert _unit(factor).min() >= 0 and _unit(factor).max() < 1
    assert str(len(factors)) in FAMILIES[name].description


@pytest.mark.parametrize("name", FAMILIES)
def test_factors_are_uniform(name: str) -> None:
    for factor in _draw(name):
        cells = len(factor.categories) or 10
        counts = np.bincount((_unit(factor) * cells + 1e-9).astype(int), minlength=cells)
        deviation = np.sqrt(COUNT / cells * (1 - 1 / cells))  # of a binomial count
        assert len(counts) == cells
        assert np.abs((counts - COUNT / cells) / deviation).max() < MAX_Z, factor.name


def test_factors_are_independent() -> None:
    for one, other in itertools.combinations(_draw("clevr-simple"), 2):
        correlation = np.corrcoef(one.values, other.values)[0, 1]
        assert abs(correlation) * np.sqrt(COUNT) < MAX_Z, (one.name, other.name)


def test_seed_decides() -> None:
    draw = FAMILIES["clevr-simple"].draw
    first, again, other = (draw(9, np.random.default_rng(seed)) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.values, b.values)
        assert not np.array_equal(a.values, c.values)


def test_scene_of_a_row() -> None:
    factors = [
        Factor("x", "continuous", np.array([0.0, -1.5])),
        Factor("y", "continuous", np.array([0.0, 0.25])),
        Factor("hue", "circular", np.array([0.0, 0.75])),
        Factor("shape", "categorical", np.array([0, 2]), SHAPES),
    ]
    assert FAMILIES["clevr-simple"].scene(factors, 1) == Scene(-1.5, 0.25, 0.75, "cylinder")
    assert FAMILIES["clevr-1fov"].scene(factors[:1], 1) == Scene(-1.5, 0.0, 0.0, "cube")


def test_unknown_shape() -> None:
    with pytest.raises(UserError, match="`shape` must be one of cube, sphere, cylinder, got 'cone'"):
        Scene(0.0, 0.0, 0.0, "cone")
