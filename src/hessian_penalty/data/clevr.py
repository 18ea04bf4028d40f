"""Scenes in CLEVR's manner: one object on a grey ground, described by a few independent factors.

The factors of the data sets follow the Hessian Penalty paper (Peebles et al., ECCV 2020, §5): CLEVR-Simple varies
horizontal and vertical position, colour and shape of one object; CLEVR-1FOV slides a red cube along one axis.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError

SHAPES = ("cube", "sphere", "cylinder")
POSITION_RANGE = 1.6  # world units either way from the middle; only in the near corners does the frame trim the object


@dataclass(frozen=True)
class Scene:
    """One object: ground position in world units, hue in [0, 1), and shape, one of `SHAPES`."""

    x: float
    y: float
    hue: float
    shape: str

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UserError(f"`shape` must be one of {', '.join(SHAPES)}, got {self.shape!r}.")


@dataclass(frozen=True)
class SceneFamily:
    """A data set's law: how factors are drawn, and the scene that a row of factors describes."""

    description: str
    draw: Callable[[int, np.random.Generator], list[Factor]]
    scene: Callable[[list[Factor], int], Scene]


def _draw_simple(count: int, rng: np.random.Generator) -> list[Factor]:
    return [
        Factor("x", "continuous", rng.uniform(-POSITION_RANGE, POSITION_RANGE, count)),
        Factor("y", "continuous", rng.uniform(-POSITION_RANGE, POSITION_RANGE, count)),
        Factor("hue", "circular", rng.uniform(0, 1, count)),
        Factor("shape", "categorical", rng.integers(0, len(SHAPES), count), SHAPES),
    ]


def _scene_simple(factors: list[Factor], index: int) -> Scene:
    x, y, hue, shape = (factor.values[index] for factor in factors)
    return Scene(float(x), float(y), float(hue), SHAPES[int(shape)])


def _draw_1fov(count: int, rng: np.random.Generator) -> list[Factor]:
    return [Factor("x", "continuous", rng.uniform(-POSITION_RANGE, POSITION_RANGE, count))]


def _scene_1fov(factors: list[Factor], index: int) -> Scene:
    return Scene(float(factors[0].values[index]), 0.0, 0.0, "cube")


FAMILIES = {
    "clevr-simple": SceneFamily("one object: x, y, hue, shape (4 factors)", _draw_simple, _scene_simple),
    "clevr-1fov": SceneFamily("a red cube that slides along one axis (1 factor)", _draw_1fov, _scene_1fov),
}
