"""The laws of the CLEVR families: ranges, uniformity, independence, and the scene of a row."""

import itertools

import numpy as np
import pytest

from hessian_penalty.data.clevr import FAMILIES, SHAPES, Object, Scene
from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError

COUNT = 20_000
MAX_Z = 4.0  # two-sided chance 6e-5 each; the seeds are fixed, so a pass stays one
RANGES = {"x": (-1.6, 1.6), "y": (-1.6, 1.6), "x0": (-1.9, -0.85), "x1": (0.85, 1.9), "size": (0.5, 0.75)}


def _draw(name: str) -> list[Factor]:
    return FAMILIES[name].draw(COUNT, np.random.default_rng(0))


def _unit(factor: Factor) -> np.ndarray:
    """A factor's values, uniform on [0, 1) if its law is what it says."""
    if factor.kind == "continuous":
        low, high = RANGES.get(factor.name) or RANGES[factor.name.rstrip("01")]
        return (factor.values - low) / (high - low)
    return factor.values / (len(factor.categories) if factor.categories else 1)


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        ("clevr-simple", [("x", "continuous"), ("y", "continuous"), ("hue", "circular"), ("shape", "categorical")]),
        ("clevr-1fov", [("x", "continuous")]),
        (
            "clevr-complex",
            [
                (f"{name}{index}", kind)
                for index in (0, 1)
                for name, kind in [
                    ("x", "continuous"),
                    ("y", "continuous"),
                    ("hue", "circular"),
                    ("shape", "categorical"),
                    ("size", "continuous"),
                ]
            ],
        ),
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


@pytest.mark.parametrize("name", ["clevr-simple", "clevr-complex"])
def test_factors_are_independent(name: str) -> None:
    for one, other in itertools.combinations(_draw(name), 2):
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
    assert FAMILIES["clevr-simple"].scene(factors, 1) == Scene((Object(-1.5, 0.25, 0.75, "cylinder", 1.0),))
    assert FAMILIES["clevr-1fov"].scene(factors[:1], 1) == Scene((Object(-1.5, 0.0, 0.0, "cube", 1.0),))


def test_two_objects_of_a_row() -> None:
    factors = _draw("clevr-complex")
    row = {factor.name: factor.values[7] for factor in factors}
    left, right = FAMILIES["clevr-complex"].scene(factors, 7).objects
    assert left == Object(row["x0"], row["y0"], row["hue0"], SHAPES[row["shape0"]], row["size0"])
    assert right == Object(row["x1"], row["y1"], row["hue1"], SHAPES[row["shape1"]], row["size1"])


def test_unknown_shape() -> None:
    with pytest.raises(UserError, match="`shape` must be one of cube, sphere, cylinder, got 'cone'"):
        Object(0.0, 0.0, 0.0, "cone")


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan")])
def test_size_of_nothing(size: float) -> None:
    with pytest.raises(UserError, match=f"`size` must be above 0, got {size}"):
        Object(0.0, 0.0, 0.0, "cube", size)
