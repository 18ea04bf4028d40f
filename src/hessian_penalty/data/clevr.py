"""Scenes in CLEVR's manner: one or two objects on a grey ground, described by a few independent factors.

The factors of the data sets follow the Hessian Penalty paper (Peebles et al., ECCV 2020, §5): CLEVR-Simple varies
horizontal and vertical position, colour and shape of one object; CLEVR-Complex these and the size of two; CLEVR-1FOV
slides a red cube along one axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError

SHAPES = ("cube", "sphere", "cylinder")
POSITION_RANGE = 1.6  # world units either way from the middle; only in the near corners does the frame trim the object

# Of two objects the first stays left of x = 0 and the second right of it: independent factors, and no overlap, as even
# the largest cube reaches just 0.83 from its middle. The camera looks along x = 0, so neither hides the other.
SIDE_RANGE = (0.85, 1.9)  # distance from x = 0
SIZE_RANGE = (0.5, 0.75)


@dataclass(frozen=True)
class Object:
    """Ground position in world units, hue in [0, 1), shape, one of `SHAPES`, and scale of the usual radius."""

    x: float
    y: float
    hue: float
    shape: str
    size: float = 1.0

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UserError(f"`shape` must be one of {', '.join(SHAPES)}, got {self.shape!r}.")
        if not self.size > 0:
            raise UserError(f"`size` must be above 0, got {self.size}.")


@dataclass(frozen=True)
class Scene:
    """The objects that stand on the ground."""

    objects: tuple[Object, ...]


@dataclass(frozen=True)
class SceneFamily:
    """A data set's law: how factors are drawn, and the scene that a row of factors describes."""

    description: str
    draw: Callable[[int, np.random.Generator], list[Factor]]
    scene: Callable[[list[Factor], int], Scene]


def _draw_object(suffix: str, x_range: tuple[float, float], count: int, rng: np.random.Generator) -> list[Factor]:
    return [
        Factor(f"x{suffix}", "continuous", rng.uniform(*x_range, count)),
        Factor(f"y{suffix}", "continuous", rng.uniform(-POSITION_RANGE, POSITION_RANGE, count)),
        Factor(f"hue{suffix}", "circular", rng.uniform(0, 1, count)),
        Factor(f"shape{suffix}", "categorical", rng.integers(0, len(SHAPES), count), SHAPES),
    ]


def _object(factors: list[Factor], index: int) -> Object:
    x, y, hue, shape, *size = (factor.values[index] for factor in factors)
    return Object(float(x), float(y), float(hue), SHAPES[int(shape)], *map(float, size))


def _draw_simple(count: int, rng: np.random.Generator) -> list[Factor]:
    return _draw_object("", (-POSITION_RANGE, POSITION_RANGE), count, rng)


def _scene_simple(factors: list[Factor], index: int) -> Scene:
    return Scene((_object(factors, index),))


def _draw_complex(count: int, rng: np.random.Generator) -> list[Factor]:
    near, far = SIDE_RANGE
    factors = []
    for suffix, x_range in (("0", (-far, -near)), ("1", (near, far))):
        factors += _draw_object(suffix, x_range, count, rng)
        factors.append(Factor(f"size{suffix}", "continuous", rng.uniform(*SIZE_RANGE, count)))
    return factors


def _scene_complex(factors: list[Factor], index: int) -> Scene:
    return Scene((_object(factors[:5], index), _object(factors[5:], index)))


def _draw_1fov(count: int, rng: np.random.Generator) -> list[Factor]:
    return [Factor("x", "continuous", rng.uniform(-POSITION_RANGE, POSITION_RANGE, count))]


def _scene_1fov(factors: list[Factor], index: int) -> Scene:
    return Scene((Object(float(factors[0].values[index]), 0.0, 0.0, "cube"),))


FAMILIES = {
    "clevr-simple": SceneFamily("one object: x, y, hue, shape (4 factors)", _draw_simple, _scene_simple),
    "clevr-1fov": SceneFamily("a red cube that slides along one axis (1 factor)", _draw_1fov, _scene_1fov),
    "clevr-complex": SceneFamily(
        "two objects, left and right: x, y, hue, shape, size of each (10 factors)", _draw_complex, _scene_complex
    ),
}
