"""Figures as files, light and dark, and a page that shows them all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure
from PIL import Image

from hessian_penalty.reports.figure_style import DARK, LIGHT, Theme, figure_png, figure_svg
from hessian_penalty.reports.grids import png_bytes
from hessian_penalty.reports.markup import Html, join, looping_video, tag
from hessian_penalty.reports.page import html_page
from hessian_penalty.runs import atomic_path

DOTS_PER_INCH = 300.0  # of PNG files, as printers want it
THEMES = (LIGHT, DARK)


@dataclass(frozen=True)
class FigureFiles:
    """Files that hold one figure.

    Args:
        stem: their path without "-light.png" and the like, or without ".mp4".
        suffixes: what follows it: one a file.
    """

    stem: Path
    suffixes: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [self.stem.with_name(self.stem.name + suffix) for suffix in self.suffixes]


def write_figure(make: Callable[[Theme], Figure], folder: str | Path, name: str) -> FigureFiles:
    """Write a figure as NAME-light.png, NAME-dark.png, NAME-light.svg and NAME-dark.svg, each atomically.

    The ink is that of the theme at full contrast. PNG files (300 dots an inch) have the theme's ground, so that they
    can be put anywhere; SVG files have none.

    Args:
        make: draws the figure in a theme's ink.
        folder: where the files go; it is made if it is not there.
        name: of the files, without suffix.
    """
    contents: dict[str, bytes] = {}
    for theme in THEMES:
        figure = make(theme)
        contents[f"-{theme.name}.png"] = figure_png(figure, DOTS_PER_INCH, theme=theme)
        contents[f"-{theme.name}.svg"] = figure_svg(figure, theme=theme)
    return _write(Path(folder) / name, contents)


def write_picture(make: Callable[[Theme], Image.Image], folder: str | Path, name: str) -> FigureFiles:
    """Write a picture made of pixels as NAME-light.png and NAME-dark.png, each atomically.

    Args:
        make: paints it with a theme's ink and ground.
        folder, name: as of `write_figure`.
    """
    return _write(Path(folder) / name, {f"-{theme.name}.png": png_bytes(make(theme)) for theme in THEMES})


def write_video(content: bytes, folder: str | Path, name: str) -> FigureFiles:
    """Write NAME.mp4, which has a ground of its own for both themes, atomically."""
    return _write(Path(folder) / name, {".mp4": content})


def _write(stem: Path, contents: Mapping[str, bytes]) -> FigureFiles:
    files = FigureFiles(stem, tuple(contents))
    for path, content in zip(files.paths, contents.values(), strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return files


@dataclass(frozen=True)
class Exhibit:
    """Figures of one kind on the index page.

    Args:
        title: heading.
        reading: how to read them, in a sentence or two.
        figures: caption → files.
    """

    title: str
    reading: str
    figures: Mapping[str, FigureFiles]


def write_index(folder: str | Path, title: str, exhibits: Sequence[Exhibit], notes: Sequence[str] = ()) -> Path:
    """Write index.html beside the figures: all of them once, light or dark as the reader prefers, with links.

    Needs no network and no program; atomically.

    Args:
        folder: in which, or below which, the figures lie.
        title: heading of the page.
        exhibits: kinds of figures without figures are left out.
        notes: lines below the heading.
    """
    folder = Path(folder)
    page = html_page(
        title,
        [tag("p", note) for note in notes],
        [_exhibit(exhibit, folder) for exhibit in exhibits if exhibit.figures],
        join(),
        files=True,
    )
    path = folder / "index.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _exhibit(exhibit: Exhibit, folder: Path) -> Html:
    shown = []
    for caption, files in exhibit.figures.items():
        addresses = {suffix: _address(path, folder) for suffix, path in zip(files.suffixes, files.paths, strict=True)}
        links = [(" · ", tag("a", suffix.lstrip("-."), href=address)) for suffix, address in addresses.items()]
        label = f"{exhibit.title}: {caption}"
        shown.append(
            tag(
                "figure",
                looping_video(addresses[".mp4"], label) if ".mp4" in addresses else _picture(addresses, label),
                tag("figcaption", tag("b", caption), *(part for link in links for part in link)),
            )
        )
    heading = tag("h2", exhibit.title)
    return tag("section", heading, tag("p", exhibit.reading), tag("div", *shown, class_="panels"), class_="group")


def _address(path: Path, folder: Path) -> str:
    return quote(path.relative_to(folder).as_posix())


def _picture(addresses: Mapping[str, str], label: str) -> Html:
    dark = tag("source", media="(prefers-color-scheme: dark)", srcset=addresses["-dark.png"])
    return tag("picture", dark, tag("img", src=addresses["-light.png"], alt=label, loading="lazy"))
