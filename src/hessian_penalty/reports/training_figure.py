"""Training curves of one or several runs, from their metrics.jsonl."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from hessian_penalty.errors import UserError
from hessian_penalty.reports.figure_style import PAGE, Theme, model_color, new_figure, style_axes

# Key in metrics.jsonl → title, in the order in which a page shows them.
PANELS = {
    "generator_loss": "Generator's loss",
    "critic_loss": "Critic's loss",
    "score_margin": "Critic's margin: real minus generated",
    "r1": "R1 gradient penalty",
    "penalty": "Penalty, unweighted (each run's own)",
    "images_per_second": "Images per second",
}
_LOGARITHMIC = ("penalty",)
_CLOSE = 100.0  # values within this factor have ticks between the powers of ten
_LEGEND_LINE = 0.18  # inches

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def recorded_panels(runs: Runs) -> list[str]:
    """Keys of `PANELS` that any of the runs recorded.

    >>> recorded_panels({"a": [{"kimg": 1.0, "penalty": 2.0}], "b": [{"kimg": 1.0, "critic_loss": 1.3}]})
    ['critic_loss', 'penalty']
    """
    return [key for key in PANELS if any(key in record for records in runs.values() for record in records)]


def training_figure(
    key: str, runs: Runs, *, colors: Mapping[str, str] | None = None, legend: bool = False, theme: Theme = PAGE
) -> Figure:
    """One recorded figure over thousands of images seen, a line for each run that has it.

    Args:
        key: of the records, one of `PANELS`.
        runs: name → records of metrics.jsonl.
        colors: name → colour; None takes the palette in order.
        legend: name the runs, below the curves; a page names them once for all panels.
        theme: ink and ground.

    Raises:
        UserError: an unknown key, or one that no run recorded.
    """
    if key not in PANELS:
        raise UserError(f"`key` must be one of {', '.join(PANELS)}, got {key!r}.")
    if key not in recorded_panels(runs):
        raise UserError(f"None of the runs {', '.join(runs)} recorded {key!r}.")
    colors = colors or {name: model_color(index) for index, name in enumerate(runs)}
    figure = new_figure(4.2, 2.1 + (_LEGEND_LINE * len(runs) if legend else 0))
    axes = figure.add_subplot()
    values: list[float] = []
    for name, records in runs.items():
        points = [(record["kimg"], record[key]) for record in records if key in record]
        if points:
            x, y = zip(*points, strict=True)
            values.extend(y)
            axes.plot(x, y, color=colors[name], linewidth=1.2, label=name, marker="o" if len(x) == 1 else "")
    if key in _LOGARITHMIC and min(values) > 0:
        axes.set_yscale("log")
        close = max(values) / min(values) < _CLOSE
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if close else LogLocator(numticks=6))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(PANELS[key])
    axes.set_xlabel("kimg")
    style_axes(axes, grid="y", theme=theme)
    if legend:
        figure.legend(loc="outside lower center", frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure
