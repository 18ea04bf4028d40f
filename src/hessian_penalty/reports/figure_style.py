"""The look of all figures, and their bytes: made without pyplot, so without global state."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

INK = "#7a828c"  # mid-tone: legible on a white and on a dark ground
# One a model, as many as a study has arms; each at least 3:1 against white and against a dark page, any two 20 apart in
# CIELAB, as the colour-blind see them too.
MODEL_COLORS = ("#536cb5", "#a44f1d", "#44a05b", "#c17099", "#989900", "#a30aff", "#606a57", "#ff32e5")

_SIZE_POINTS = 9.0
_SVG_INK = """<style>
svg { color: #3d444d; color-scheme: light dark }
@media (prefers-color-scheme: dark) { svg { color: #b4bdc8 } }
</style>"""


@dataclass(frozen=True)
class Theme:
    """Ink and ground of a figure.

    Args:
        name: "page", "light" or "dark".
        ink: of text and lines, #rrggbb.
        ground: on which the figure is shown, #rrggbb; None where that is not known.
    """

    name: str
    ink: str
    ground: str | None = None

    @property
    def ink_rgb(self) -> tuple[int, int, int]:
        """The ink as bytes."""
        return _bytes(self.ink)

    @property
    def ground_rgb(self) -> tuple[int, int, int] | None:
        """The ground as bytes.

        >>> DARK.ground_rgb, PAGE.ground_rgb
        ((13, 17, 23), None)
        """
        return None if self.ground is None else _bytes(self.ground)


def _bytes(color: str) -> tuple[int, int, int]:
    red, green, blue = (round(255 * channel) for channel in to_rgb(color))
    return red, green, blue


PAGE = Theme("page", INK)  # mid-tone, for a page that follows the reader's preference
LIGHT = Theme("light", "#1f2328", "#ffffff")
DARK = Theme("dark", "#e6edf3", "#0d1117")


def model_color(index: int) -> str:
    """The colour of the model at this place of its group.

    >>> model_color(0) == model_color(8)
    True
    """
    return MODEL_COLORS[index % len(MODEL_COLORS)]


def new_figure(width: float, height: float, *, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty transparent figure, in inches; a page shows it at 96 pixels an inch."""
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    return figure


def style_axes(
    axes: Axes, *, spines: Iterable[str] = ("left", "bottom"), grid: str | None = None, theme: Theme = PAGE
) -> None:
    """The theme's ink, transparent ground, only the named spines, and faint grid lines across "x" or "y"."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=theme.ink, labelsize=_SIZE_POINTS, length=2.5)
    for name, spine in axes.spines.items():
        spine.set_visible(name in spines)
        spine.set_color(theme.ink)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color(theme.ink)
        text.set_fontsize(_SIZE_POINTS)
    if grid is not None:
        axes.grid(axis="x" if grid == "x" else "y", color=theme.ink, alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)


def frame_axes(axes: Axes, theme: Theme) -> None:
    """A fine line around a map, whose dark end would melt into a dark ground."""
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(theme.ink)
        spine.set_linewidth(0.5)


def figure_png(figure: Figure, dots_per_inch: float = 192, *, theme: Theme = PAGE) -> bytes:
    """The figure as PNG on the theme's ground; on a transparent one where the theme has none."""
    buffer = io.BytesIO()
    if theme.ground is None:
        figure.savefig(buffer, format="png", dpi=dots_per_inch, transparent=True)
    else:
        figure.patch.set_alpha(1)
        figure.savefig(buffer, format="png", dpi=dots_per_inch, facecolor=theme.ground)
    return buffer.getvalue()


def figure_svg(figure: Figure, *, theme: Theme = PAGE) -> bytes:
    """The figure as SVG with a transparent ground; equal figures give equal bytes.

    The ink of a page's figure follows the reader's light or dark preference, that of the other themes is their own.

    >>> svg = figure_svg(new_figure(2.0, 1.0))
    >>> svg.startswith(b"<?xml"), b"prefers-color-scheme: dark" in svg
    (True, True)
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hessian-penalty"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue().decode().replace("'DejaVu Sans', ", "")
    if theme != PAGE:
        return text.encode()
    text = text.replace(INK, "currentColor")
    head, rest = text.split("<defs>", 1)
    return f"{head}{_SVG_INK}\n <defs>{rest}".encode()
