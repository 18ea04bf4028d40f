"""Hessians of single image elements: the one where latents alter each other most, and one chosen by chance."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.interactions import PixelHessian, PixelHessians
from hessian_penalty.reports.figure_style import PAGE, Theme, frame_axes, new_figure, style_axes
from hessian_penalty.reports.grids import images_uint8
from hessian_penalty.reports.hessian_figure import LOG_DECADES

_KINDS = {"largest": "largest penalty", "random": "random element"}
# Inches: a model a row, in it two pairs of picture and matrix.
_WIDTH, _PICTURE, _MATRIX, _NAMES, _MARGIN = 4.6, 0.62, 1.1, 0.35, 0.06
_HEADING, _MODEL, _TICKS, _BAR = 0.28, 0.24, 0.24, 0.62
_MOST_TICKS = 5
_DOT = "#ff3b5c"


def pixel_hessian_figure(
    models: Mapping[str, PixelHessians], *, orders: Mapping[str, Sequence[int]] | None = None, theme: Theme = PAGE
) -> Figure:
    """|∂²G_p / ∂z_i ∂z_j| of the element p with the largest penalty and of a random one, a row for each model.

    A dot in the picture beside it shows where p lies. Each of the two kinds has one colour scale for all models,
    logarithmic over three decades: the curvature of models and of elements differs by more than a linear one shows.

    Args:
        models: name → what `pixel_hessians` gives.
        orders: name → order of its latents along both axes; None keeps the index order.
        theme: ink and ground.

    Raises:
        UserError: no model.
    """
    if not models:
        raise UserError("`models` must name at least one model, each with its pixel Hessians.")
    row_height = _MODEL + _MATRIX + _TICKS
    height = _HEADING + len(models) * row_height + _BAR
    figure = new_figure(_WIDTH, height, layout=None)

    def place(left: float, top: float, width: float, tall: float) -> Axes:
        return figure.add_axes((left / _WIDTH, 1 - (top + tall) / height, width / _WIDTH, tall / height))

    for column, (kind, heading) in enumerate(_KINDS.items()):
        left = _MARGIN + column * _WIDTH / 2
        matrix_left = left + _PICTURE + _NAMES
        largest = max(float(getattr(found, kind).hessian.max()) for found in models.values()) or 1.0
        norm = LogNorm(largest * 10.0**-LOG_DECADES, largest, clip=True)
        figure.text(left / _WIDTH, 1 - 0.06 / height, heading, fontsize=9, color=theme.ink, weight="bold", va="top")
        for row, (name, found) in enumerate(models.items()):
            top = _HEADING + row * row_height
            if column == 0:
                figure.text(left / _WIDTH, 1 - (top + 0.03) / height, name, fontsize=9, color=theme.ink, va="top")
            element: PixelHessian = getattr(found, kind)
            _draw_picture(place(left, top + _MODEL, _PICTURE, _PICTURE), element, theme)
            order = list((orders or {}).get(name, range(len(element.hessian))))
            _draw_matrix(place(matrix_left, top + _MODEL, _MATRIX, _MATRIX), element, order, norm, theme)
        bar_axes = place(matrix_left, height - _BAR + 0.04, _MATRIX, 0.1)
        bar = figure.colorbar(
            ScalarMappable(norm, "magma"), cax=bar_axes, orientation="horizontal", ticks=LogLocator(), format="{x:g}"
        )
        bar_axes.xaxis.set_minor_locator(NullLocator())
        bar.set_label("|∂²G / ∂zᵢ ∂zⱼ|", labelpad=2)
        style_axes(bar_axes, spines=(), theme=theme)
        bar_axes.tick_params(labelsize=8, colors=theme.ink)
    return figure


def _draw_picture(axes: Axes, element: PixelHessian, theme: Theme) -> None:
    axes.imshow(images_uint8(element.image), interpolation="nearest")
    axes.plot([element.column], [element.row], "o", color=_DOT, markersize=5, markeredgecolor="white")
    axes.set_xticks([])
    axes.set_yticks([])
    style_axes(axes, spines=(), theme=theme)


def _draw_matrix(axes: Axes, element: PixelHessian, order: Sequence[int], norm: Normalize, theme: Theme) -> None:
    axes.imshow(element.hessian.numpy()[order][:, order], cmap="magma", norm=norm, interpolation="nearest")
    places = range(0, len(order), -(-len(order) // _MOST_TICKS))
    names = [f"z{order[place]}" for place in places]
    axes.set_xticks(places, names)
    axes.set_yticks(places, names)
    style_axes(axes, spines=(), theme=theme)
    frame_axes(axes, theme)
    axes.tick_params(length=0, labelsize=8, pad=2)
