"""Which latent carries which ground-truth factor."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from hessian_penalty.errors import UserError
from hessian_penalty.reports.figure_style import PAGE, Theme, frame_axes, new_figure, style_axes

MOST_ROWS = 24  # latents shown; beyond, those that carry least are counted in a line
_BRIGHT = 0.55  # values above have bright cells, on which dark figures stand out
_LONG_NAME = 7


def factor_map_figure(
    information: Float[np.ndarray, "latents factors"],
    factors: Sequence[str],
    latent_names: Sequence[str] | None = None,
    *,
    order: Sequence[int] | None = None,
    theme: Theme = PAGE,
) -> Figure:
    """Mutual information of each latent with each factor, as a share of the factor's entropy, written in its cells.

    Disentangled: one bright cell a row and one a column.

    Args:
        information: in [0, 1], n × factors.
        factors: their names.
        latent_names: what each latent carries, "" for nothing: "hue" labels the row "z3 = hue"; None names none.
        order: of the rows; None keeps the index order.
        theme: ink and ground.

    Raises:
        UserError: entries outside [0, 1], or a number of names that does not fit.
    """
    latents, columns = information.shape
    if not (np.isfinite(information).all() and information.min(initial=0) >= 0 and information.max(initial=0) <= 1):
        raise UserError(
            "`information` must hold shares in [0, 1], as mutual information divided by the factor's entropy, got "
            f"entries from {information.min():g} to {information.max():g}."
        )
    latent_names = [""] * latents if latent_names is None else latent_names
    for what, names, count in (("factors", factors, columns), ("latent_names", latent_names, latents)):
        if len(names) != count:
            raise UserError(f"`{what}` must hold {count} names for a map of {latents} x {columns}, got {len(names)}.")
    order = list(range(latents) if order is None else order)
    if len(order) > MOST_ROWS:
        kept = set(sorted(order, key=lambda latent: -information[latent].max())[:MOST_ROWS])
        order = [latent for latent in order if latent in kept]
    shown = information[order]
    figure = new_figure(4.4, 0.85 + 0.23 * len(order))
    axes = figure.add_subplot()
    picture = axes.imshow(shown, cmap="magma", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(shown):
        ink = "#111111" if value > _BRIGHT else "#ffffff"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
    labels = [f"z{latent} = {latent_names[latent]}" if latent_names[latent] else f"z{latent}" for latent in order]
    axes.set_yticks(range(len(order)), labels)
    long = max(map(len, factors), default=0) > _LONG_NAME
    axes.set_xticks(range(columns), factors, rotation=30 if long else 0, ha="left" if long else "center")
    axes.xaxis.tick_top()
    hidden = latents - len(order)
    below = f"\n{hidden} latents that carry less not shown" if hidden else ""
    axes.set_xlabel("mutual information / entropy of the factor" + below)
    style_axes(axes, spines=(), theme=theme)
    frame_axes(axes, theme)
    axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=axes, fraction=0.05, pad=0.02, ticks=[0, 0.5, 1])
    style_axes(bar.ax, spines=(), theme=theme)
    bar.ax.tick_params(labelsize=8)
    return figure
