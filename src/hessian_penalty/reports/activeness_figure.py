"""Bars of activeness: how much each latent changes the picture."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from hessian_penalty.errors import UserError
from hessian_penalty.reports.figure_style import PAGE, Theme, model_color, new_figure, style_axes
from hessian_penalty.reports.traversals import activeness_text, by_activeness

MOST_BARS = 32  # more would not be legible; the rest is counted in a line
_SWATCH, _LETTER, _LEGEND_LINE = 0.65, 0.075, 0.18  # inches, of a legend
_INCHES_A_RANK = 0.25  # with less room their numbers would touch each other


def activeness_figure(
    activeness: Sequence[float],
    *,
    color: str = model_color(0),
    limit: float | None = None,
    prefix: str = "z",
    theme: Theme = PAGE,
) -> Figure:
    """One bar a latent, the most active on top.

    Args:
        activeness: one figure for each latent.
        color: of the bars.
        limit: end of the axis, to share it between models; None fits it.
        prefix: of the names: "z" for latents, "direction " for directions.
        theme: ink and ground.

    Raises:
        UserError: no latent.
    """
    if not activeness:
        raise UserError("`activeness` must hold one figure for each latent, got none.")
    order = by_activeness(activeness, MOST_BARS)
    hidden = len(activeness) - len(order)
    values = [activeness[index] for index in order]
    end = limit if limit is not None else max(values)
    figure = new_figure(4.2, 0.7 + 0.21 * len(order))
    axes = figure.add_subplot()
    axes.barh(range(len(order)), values, color=color, height=0.72)
    for row, value in enumerate(values):
        text = activeness_text(value, max(values))
        axes.annotate(
            text, (value, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, color=theme.ink
        )
    axes.set_yticks(range(len(order)), [f"{prefix}{index}" for index in order])
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * end or 1.0)  # room for the last figure
    axes.locator_params(axis="x", nbins=5)  # more would touch each other
    axes.set_xlabel("activeness" + (f" ({hidden} less active ones not shown)" if hidden else ""))
    style_axes(axes, grid="x", theme=theme)
    axes.tick_params(axis="y", length=0)
    return figure


def activeness_comparison_figure(
    models: Mapping[str, Sequence[float]], *, colors: Sequence[str] = (), width: float = 8.6, theme: Theme = PAGE
) -> Figure:
    """Grouped bars: the most active latent of every model, then the second of every model, and so on.

    Args:
        models: name → activeness of its latents.
        colors: one a model; empty takes the palette.
        width: of the figure in inches.
        theme: ink and ground.

    Raises:
        UserError: no model, or one without latents.
    """
    if not models or not all(models.values()):
        raise UserError("`models` must name at least one model, each with the activeness of its latents.")
    colors = colors or [model_color(index) for index in range(len(models))]
    ranks = min(max(map(len, models.values())), MOST_BARS)
    columns = max(1, min(len(models), int(width / (_SWATCH + _LETTER * max(map(len, models))))))
    figure = new_figure(width, 2.3 + _LEGEND_LINE * -(-len(models) // columns))
    axes = figure.add_subplot()
    bar = 0.82 / len(models)
    for index, (name, activeness) in enumerate(models.items()):
        values = sorted(activeness, reverse=True)[:ranks]
        offset = (index - (len(models) - 1) / 2) * bar
        positions = np.arange(1, len(values) + 1) + offset
        axes.bar(positions, values, bar * 0.92, color=colors[index], label=name)
    axes.set_xticks(range(1, ranks + 1, 1 if ranks <= width / _INCHES_A_RANK else 4))
    axes.set_xlim(0.4, ranks + 0.6)
    axes.set_xlabel("latents of each model, from its most to its least active")
    axes.set_ylabel("activeness")
    style_axes(axes, grid="y", theme=theme)
    axes.tick_params(axis="x", length=0)
    figure.legend(loc="outside upper center", ncols=columns, frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure
