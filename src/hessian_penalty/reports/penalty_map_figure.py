"""Where in the picture latents alter each other's effect: the penalty of every pixel as heat over it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.reports.figure_style import PAGE, Theme, new_figure, style_axes
from hessian_penalty.reports.grids import images_uint8

MOST_SAMPLES = 4  # more would be too small to see
# Inches: a model has a row of pictures, and under it the same with heat.
_WIDTH, _TILE, _GAP, _MARGIN, _MODEL, _BLOCK_GAP, _BOTTOM = 4.6, 0.94, 0.04, 0.06, 0.24, 0.1, 0.12
_HEAT = ListedColormap(colormaps["inferno"](np.linspace(0.25, 1, 256)), "heat")  # its weak end is no black
_GAMMA = 0.5  # squares spread over decades
_TOP = 0.998  # quantile of the pixels shown at which the scale ends: single pixels lie far above
_DIMMED = 0.75  # brightness of the grey picture under the heat


class PenaltyMap(NamedTuple):
    """Samples of one model, and the penalty of their pixels, as `penalty_map` gives it."""

    images: Float[Tensor, "batch channels height width"]
    penalties: Float[Tensor, "batch height width"]


def penalty_map_figure(models: Mapping[str, PenaltyMap], *, theme: Theme = PAGE) -> Figure:
    """For each model a row of its first pictures, and below each the same in grey under the penalty of its pixels.

    One colour scale for all models, by square root: a quarter of its top is half way up. The weaker the penalty, the
    more of the picture shows through. Two pixels in a thousand may lie above the top.

    Args:
        models: name → samples and penalties; the first four samples are shown.
        theme: ink and ground.

    Raises:
        UserError: no model, or penalties that do not fit the images.
    """
    if not models:
        raise UserError("`models` must name at least one model, each with images and the penalty of their pixels.")
    for name, (images, penalties) in models.items():
        if (len(images), *images.shape[2:]) != tuple(penalties.shape):
            raise UserError(
                f"Model {name!r}: `penalties` must hold a value for each pixel of each image, "
                f"{(len(images), *images.shape[2:])}, got shape {tuple(penalties.shape)}."
            )
    shown = {name: [part[:MOST_SAMPLES] for part in found] for name, found in models.items()}
    pixels = np.concatenate([penalties.numpy().ravel() for _, penalties in shown.values()])
    norm = PowerNorm(_GAMMA, 0, float(np.quantile(pixels, _TOP)) or float(pixels.max()) or 1.0, clip=True)
    block = _MODEL + 2 * _TILE + _GAP + _BLOCK_GAP
    height = len(models) * block + _BOTTOM
    figure = new_figure(_WIDTH, height, layout=None)
    for number, (name, (images, penalties)) in enumerate(shown.items()):
        top = number * block
        figure.text(_MARGIN / _WIDTH, 1 - (top + 0.05) / height, name, fontsize=9, color=theme.ink, va="top")
        pictures = images_uint8(images)
        for column, (picture, values) in enumerate(zip(pictures, penalties.numpy(), strict=True)):
            for row, content in enumerate((picture, heated(picture, norm(values)))):
                left, upper = _MARGIN + column * (_TILE + _GAP), top + _MODEL + row * (_TILE + _GAP)
                axes = figure.add_axes((left / _WIDTH, 1 - (upper + _TILE) / height, _TILE / _WIDTH, _TILE / height))
                axes.imshow(content, interpolation="nearest")
                axes.set_axis_off()
    columns = max(len(images) for images, _ in shown.values())
    bar_left = (_MARGIN + columns * (_TILE + _GAP) + 0.06) / _WIDTH
    bar_axes = figure.add_axes((bar_left, 1 - (block - _BLOCK_GAP) / height, 0.1 / _WIDTH, 2 * _TILE / height))
    figure.colorbar(
        ScalarMappable(norm, _HEAT), cax=bar_axes, extend="max", extendfrac=0.04, ticks=MaxNLocator(4, prune="upper")
    )
    figure.text(bar_left, 1 - 0.05 / height, "penalty", fontsize=8, color=theme.ink, va="top")
    style_axes(bar_axes, spines=(), theme=theme)
    bar_axes.tick_params(labelsize=8, colors=theme.ink)
    return figure


def heated(
    picture: NDArray[np.uint8], heat: Float[NDArray[Any], "height width"]
) -> Float[NDArray[Any], "height width 3"]:
    """A picture in grey, with heat in [0, 1] over it: the stronger the more opaque."""
    grey = _DIMMED * picture.mean(axis=-1, keepdims=True) / 255
    strength = np.sqrt(heat)[..., None]
    return np.asarray((1 - strength) * grey + strength * _HEAT(heat)[..., :3])
