"""The heat map of |Hessian|: which latents alter each other's effect."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from hessian_penalty.errors import UserError
from hessian_penalty.reports.figure_style import PAGE, Theme, new_figure, style_axes

LOG_DECADES = 3  # a logarithmic scale shows this many below its top
_MOST_TICKS = 24  # beyond, only some latents are named
# Inches, fixed: the maps of all models have one size, which a layout engine would fit to each one's labels.
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _SIDE = 4.2, 3.75, 0.4, 0.4, 3.1


def hessian_figure(
    hessian: Float[np.ndarray, "rows columns"],
    *,
    order: Sequence[int] | None = None,
    limit: float | None = None,
    log: bool = False,
    theme: Theme = PAGE,
) -> Figure:
    """Mean |∂²G/∂z_i ∂z_j| as an n × n map with a colour bar; bright is strong.

    Args:
        hessian: n × n, non-negative entries.
        order: of the latents, along both axes; None keeps the index order.
        limit: top of the scale, to share it between models; None takes the largest entry.
        log: logarithmic colours over three decades instead of linear ones.
        theme: ink and ground.

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
    norm: Normalize = LogNorm(top * 10.0**-LOG_DECADES, top, clip=True) if log else Normalize(0, top)
    figure = new_figure(_WIDTH, _HEIGHT, layout=None)
    axes = figure.add_axes((_LEFT / _WIDTH, _BOTTOM / _HEIGHT, _SIDE / _WIDTH, _SIDE / _HEIGHT))
    picture = axes.imshow(shown, cmap="magma", norm=norm, interpolation="nearest")
    step = -(-len(order) // _MOST_TICKS)
    places = range(0, len(order), step)
    names = [f"z{order[place]}" for place in places]
    axes.set_xticks(places, names, rotation=90 if len(names) > 12 else 0)
    axes.set_yticks(places, names)
    axes.set_title("mean |∂²G / ∂zᵢ ∂zⱼ|")
    style_axes(axes, spines=(), theme=theme)
    axes.tick_params(length=0, labelsize=8)
    beside = (_LEFT + _SIDE + 0.12) / _WIDTH
    bar_axes = figure.add_axes((beside, _BOTTOM / _HEIGHT, 0.13 / _WIDTH, _SIDE / _HEIGHT))
    figure.colorbar(picture, cax=bar_axes)
    style_axes(bar_axes, spines=(), theme=theme)
    bar_axes.tick_params(labelsize=8, which="both", colors=theme.ink)
    return figure
