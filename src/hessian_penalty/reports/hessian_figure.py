"""The heat map of |Hessian|: which latents alter each other's effect."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from hessian_penalty.errors import UserError
from hessian_penalty.reports.figure_style import INK, new_figure, style_axes

_LOG_DECADES = 3  # a logarithmic scale shows this many below its top
_MOST_TICKS = 24  # beyond, only some latents are named


def hessian_figure(
    hessian: Float[np.ndarray, "latent latent"],
    *,
    order: Sequence[int] | None = None,
    limit: float | None = None,
    log: bool = False,
) -> Figure:
    """Mean |∂²G/∂z_i ∂z_j| as an n × n map with a colour bar; bright is strong.

    Args:
        hessian: non-negative entries.
        order: of the latents, along both axes; None keeps the index order.
        limit: top of the scale, to share it between models; None takes the largest entry.
        log: logarithmic colours over three decades instead of linear ones.

    Raises:
        UserError: not square, negative or not finite entries.
    """
    if hessian.shape[0] != hessian.shape[1] or not np.isfinite(hessian).all() or (hessian < 0).any():
        raise UserError(
            f"`hessian` must be a square matrix of finite mean absolute values, got shape {hessian.shape} "
            f"with entries from {hessian.min():g} to {hessian.max():g}."
        )
    order = list(range(len(hessian)) if order is None else order)
    shown = hessian[np.ix_(order, order)]
    top = float(hessian.max()) if limit is None else limit
    top = top if top > 0 else 1.0
    norm: Normalize = LogNorm(top * 10.0**-_LOG_DECADES, top, clip=True) if log else Normalize(0, top)
    figure = new_figure(4.2, 3.6)
    axes = figure.add_subplot()
    picture = axes.imshow(shown, cmap="magma", norm=norm, interpolation="nearest")
    step = -(-len(order) // _MOST_TICKS)
    places = range(0, len(order), step)
    names = [f"z{order[place]}" for place in places]
    rotation = 90 if len(names) > 12 else 0
    axes.set_xticks(places, names, rotation=rotation)
    axes.set_yticks(places, names)
    style_axes(axes, spines=())
    axes.tick_params(length=0, labelsize=8)
    _add_colour_bar(figure, axes, picture)
    return figure


def _add_colour_bar(figure: Figure, axes: Any, picture: Any) -> None:
    bar = figure.colorbar(picture, ax=axes, fraction=0.046, pad=0.03)
    bar.ax.tick_params(colors=INK, labelsize=8, length=2.5, which="both")
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.set_label("mean |∂²G/∂zᵢ∂zⱼ|", color=INK, fontsize=9)
