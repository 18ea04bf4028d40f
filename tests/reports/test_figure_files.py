"""Every figure in both themes: contrast, sizes of letters, grounds; and what the new figures must show."""

import functools
import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.interactions import PixelHessian, PixelHessians
from hessian_penalty.reports.activeness_figure import activeness_comparison_figure, activeness_figure
from hessian_penalty.reports.factor_map_figure import factor_map_figure
from hessian_penalty.reports.figure_files import Exhibit, write_figure, write_index, write_picture, write_video
from hessian_penalty.reports.figure_style import DARK, LIGHT, PAGE, Theme, figure_png, figure_svg
from hessian_penalty.reports.hessian_figure import hessian_figure
from hessian_penalty.reports.penalty_map_figure import PenaltyMap, heated, penalty_map_figure
from hessian_penalty.reports.pixel_hessian_figure import pixel_hessian_figure
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.reports.training_figure import training_figure
from hessian_penalty.reports.traversals import traversal_grid

HALF_COLUMN, LEAST_POINTS = 3.25, 5.5  # half of a 6.5-inch text block, in inches; letters there


def element(column: int, scale: float, n: int = 12) -> PixelHessian:
    matrix = scale * torch.arange(n * n, dtype=torch.float64).reshape(n, n) / (n * n - 1)
    return PixelHessian(torch.zeros(3, 8, 8), 0, 2, column, matrix)


PIXELS = {
    "a": PixelHessians(element(1, 4.0), element(3, 0.1)),
    "b": PixelHessians(element(5, 2.0, n=4), element(7, 0.5, n=4)),
}
HEAT = {
    "a": PenaltyMap(torch.zeros(5, 3, 8, 8), torch.arange(320.0).reshape(5, 8, 8)),
    "b": PenaltyMap(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4)),
}
INFORMATION = np.array([[0.9, 0.1], [0.0, 0.3], [0.2, 0.62]])
NAMES = ["hue", "", "x + y"]
RECORDS = {"a": [{"kimg": float(k), "penalty": 10.0 / k} for k in (1, 2, 3)], "b": [{"kimg": 1.0, "penalty": 5.0}]}

FIGURES: dict[str, Callable[[Theme], Figure]] = {
    "bars": lambda theme: activeness_figure([0.1, 0.2], theme=theme),
    "comparison": lambda theme: activeness_comparison_figure({"a": [0.1] * 32, "b": [0.2]}, width=4.6, theme=theme),
    "hessian": lambda theme: hessian_figure(np.eye(12), theme=theme),
    "training": lambda theme: training_figure("penalty", RECORDS, legend=True, theme=theme),
    "pixels": lambda theme: pixel_hessian_figure(PIXELS, theme=theme),
    "heat": lambda theme: penalty_map_figure(HEAT, theme=theme),
    "factors": lambda theme: factor_map_figure(INFORMATION, ["hue", "background"], NAMES, theme=theme),
}
EVERY = pytest.mark.parametrize("name", FIGURES)
BOTH = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def texts(figure: Figure) -> list[Text]:
    """What is written, without the labels of ticks outside of an axis, which Matplotlib keeps but does not draw."""
    figure.draw_without_rendering()
    outside = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                outside |= {tick.label1, tick.label2}
    found: Any = figure.findobj(Text)
    return [text for text in found if text.get_visible() and text.get_text().strip() and text not in outside]


@functools.cache
def drawn(name: str, theme: Theme) -> tuple[Figure, list[Text]]:
    """A figure, for tests that do not change it, and what is written in it."""
    figure = FIGURES[name](theme)
    return figure, texts(figure)


def luminance(color: Any) -> float:
    rgb = np.asarray(to_rgb(color))
    return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def contrast(one: Any, other: Any) -> float:
    dark, bright = sorted([luminance(one), luminance(other)])
    return (bright + 0.05) / (dark + 0.05)


@EVERY
@BOTH
def test_all_text_outside_of_maps_is_in_full_ink(name: str, theme: Theme) -> None:
    figure, written = drawn(name, theme)
    inside = set(figure.axes[0].texts) if name == "factors" else set()
    assert contrast(theme.ink, theme.ground) > 12
    for text in written:
        if text not in inside:
            assert to_rgb(text.get_color()) == to_rgb(theme.ink), text.get_text()


@EVERY
def test_letters_can_be_read_at_half_the_width_of_a_page(name: str) -> None:
    figure, written = drawn(name, LIGHT)
    shrunk = min(1.0, HALF_COLUMN / figure.get_figwidth())
    for text in written:
        assert text.get_fontsize() >= 8, text.get_text()
        assert text.get_fontsize() * shrunk >= LEAST_POINTS, text.get_text()


@EVERY
def test_all_text_lies_inside_the_figure(name: str) -> None:
    figure, written = drawn(name, LIGHT)
    for text in written:
        box = text.get_window_extent()
        assert box.x0 >= -1 and box.y0 >= -1, text.get_text()
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text.get_text()


@EVERY
@BOTH
def test_svg_has_the_ink_of_its_theme_alone(name: str, theme: Theme) -> None:
    svg = figure_svg(drawn(name, theme)[0], theme=theme).decode()
    assert theme.ink in svg
    assert "currentColor" not in svg and "prefers-color-scheme" not in svg and PAGE.ink not in svg
    ElementTree.fromstring(svg)


@EVERY
def test_on_a_page_every_figure_follows_the_reader(name: str) -> None:
    page = figure_svg(FIGURES[name](PAGE)).decode()
    assert "currentColor" in page and PAGE.ink not in page
    assert not [theme.name for theme in (LIGHT, DARK) if theme.ink in page]


@BOTH
def test_png_has_the_ground_of_its_theme_and_the_page_none(theme: Theme) -> None:
    picture = Image.open(io.BytesIO(figure_png(FIGURES["bars"](theme), theme=theme)))
    assert picture.convert("RGBA").getpixel((0, 0)) == (*(theme.ground_rgb or ()), 255)
    page = Image.open(io.BytesIO(figure_png(FIGURES["bars"](PAGE))))
    assert page.getpixel((0, 0))[3] == 0  # type: ignore[index]


def test_four_files_of_a_figure_two_of_a_picture_one_of_a_video(tmp_path: Path, square: Any) -> None:
    files = write_figure(FIGURES["bars"], tmp_path / "deep", "bars")
    assert sorted(path.name for path in files.paths) == [
        "bars-dark.png", "bars-dark.svg", "bars-light.png", "bars-light.svg",
    ]  # fmt: skip
    assert sorted((tmp_path / "deep").iterdir()) == sorted(files.paths)  # nothing temporary stays
    picture = Image.open(tmp_path / "deep" / "bars-dark.png")
    assert picture.width == pytest.approx(4.2 * 300, abs=1)
    assert picture.convert("RGB").getpixel((0, 0)) == DARK.ground_rgb
    sheet = write_picture(
        lambda theme: sample_sheet(square, rows=1, columns=2, gap=4, background=theme.ground_rgb), tmp_path, "sheet"
    )
    assert [path.name for path in sheet.paths] == ["sheet-light.png", "sheet-dark.png"]
    light, dark = (Image.open(path).convert("RGB") for path in sheet.paths)
    assert (light.getpixel((65, 3)), dark.getpixel((65, 3))) == ((255, 255, 255), (13, 17, 23))
    assert write_video(b"film", tmp_path, "v.1").paths == [tmp_path / "v.1.mp4"]
    assert (tmp_path / "v.1.mp4").read_bytes() == b"film"


def test_a_figure_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    write_video(b"old", tmp_path, "bars-light.png")

    def fails(theme: Theme) -> Figure:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        write_figure(fails, tmp_path, "bars")
    assert [path.name for path in tmp_path.iterdir()] == ["bars-light.png.mp4"]


@BOTH
def test_traversals_are_labelled_in_ink_on_the_ground(square: Any, theme: Theme) -> None:
    options: Any = {"background": theme.ground_rgb, "ink": theme.ink_rgb, "letters": 32, "scale": 8}
    grid = traversal_grid(square, activeness=[0.2, 0.05, 0.0], columns=3, **options)
    pixels = np.asarray(grid)
    assert grid.mode == "RGB"
    assert (pixels[:8] == theme.ground_rgb).all(axis=-1).all(), "headings keep clear of the edge"
    assert (pixels[:, :60] == theme.ink_rgb).all(axis=-1).any()
    small = traversal_grid(square, activeness=[0.2, 0.05, 0.0], columns=3, **{**options, "letters": 12})
    assert small.width < grid.width


def test_pixel_hessians_share_a_scale_of_each_kind_and_mark_the_place() -> None:
    figure = pixel_hessian_figure(PIXELS, orders={"b": [3, 1, 0, 2]})
    maps = [axes.images[0] for axes in figure.axes if axes.images and axes.images[0].get_array().ndim == 2]  # type: ignore
    assert [image.norm.vmax for image in maps] == [4.0, 4.0, 0.5, 0.5]
    assert [image.norm.vmin for image in maps] == [0.004, 0.004, 0.0005, 0.0005]
    assert maps[0].norm(0.0) == 0, "black, not transparent"
    b = PIXELS["b"].largest.hessian.numpy()
    assert (np.asarray(maps[1].get_array()) == b[np.ix_([3, 1, 0, 2], [3, 1, 0, 2])]).all()
    dots = [axes.lines[0].get_xydata().tolist() for axes in figure.axes if axes.lines]  # type: ignore[union-attr]
    assert dots == [[[1.0, 2.0]], [[5.0, 2.0]], [[3.0, 2.0]], [[7.0, 2.0]]]
    shown = [text.get_text() for text in texts(figure)]
    assert {"a", "b", "largest penalty", "random element", "z3", "z9"} <= set(shown)


def test_penalty_maps_show_four_samples_on_one_scale() -> None:
    figure = penalty_map_figure(HEAT)
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * 4 + 2 * 2
    flat = np.concatenate([np.arange(256.0), np.zeros(32)])
    hottest = heated(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)))[0, 0]
    last = np.asarray(pictures[7].get_array())
    assert np.allclose(last[7, 7], hottest), "255 lies above the quantile"
    assert np.quantile(flat, 0.998) < 255
    cold = np.asarray(pictures[-1].get_array())
    assert np.allclose(cold, cold[0, 0]) and np.allclose(cold[0, 0], 0.75 * 128 / 255, atol=0.01)


def test_heat_covers_the_picture_as_it_grows() -> None:
    picture = np.full((1, 3, 3), 200, np.uint8)
    picture[..., 0] = 50
    found = heated(picture, np.array([[0.0, 0.25, 1.0]]))[0]
    assert np.allclose(found[0], 0.75 * 150 / 255), "no heat: the picture in grey"
    assert luminance(found[2]) > luminance(found[0]) > luminance(found[1]) * 0.9
    assert found[1, 0] > found[1, 1], "weak heat is red"


def test_the_factor_map_writes_its_values_and_names_its_rows() -> None:
    figure = factor_map_figure(INFORMATION, ["hue", "x"], NAMES, order=[2, 0, 1])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["z2 = x + y", "z0 = hue", "z1"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["hue", "x"]
    assert [text.get_text() for text in axes.texts] == ["0.20", "0.62", "0.90", "0.10", "0.00", "0.30"]
    image: Any = axes.images[0]
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    for text, value in zip(axes.texts, INFORMATION[[2, 0, 1]].ravel(), strict=True):
        assert contrast(text.get_color(), image.cmap(value)[:3]) > 4.5, text.get_text()
    unnamed = factor_map_figure(INFORMATION, ["hue", "x"]).axes[0]
    assert [label.get_text() for label in unnamed.get_yticklabels()] == ["z0", "z1", "z2"]


def test_every_value_of_the_factor_map_can_be_read() -> None:
    values = np.linspace(0, 1, 21)
    axes = factor_map_figure(values[:, None], ["x"]).axes[0]
    image: Any = axes.images[0]
    for text, value in zip(axes.texts, values, strict=True):
        assert contrast(text.get_color(), image.cmap(value)[:3]) > 4, value


def test_many_latents_leave_those_that_carry_least_out() -> None:
    information = np.linspace(0, 1, 60).reshape(30, 2)[::-1].copy()
    figure = factor_map_figure(information, ["x", "y"])
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == [f"z{index}" for index in range(24)]
    below = figure.axes[0].get_xlabel()
    assert "6 latents that carry less not shown" in below
    assert all(text.get_window_extent().x0 >= 0 for text in texts(figure))


class Page(HTMLParser):
    """Addresses and words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_index_shows_every_file_light_or_dark(tmp_path: Path) -> None:
    figure = write_figure(FIGURES["bars"], tmp_path / "a #1", "bars")
    video = write_video(b"film", tmp_path / "a #1", "film")
    exhibits = [
        Exhibit("Bars", "Read <them>.", {"a #1": figure}),
        Exhibit("Films", "", {"a #1": video}),
        Exhibit("Nothing", "", {}),
    ]
    path = write_index(tmp_path, "Figures", exhibits, ["a note"])
    assert path == tmp_path / "index.html"
    page = Page(path.read_text(encoding="utf-8"))
    found = {(tag, key): value for tag, attributes in page.tags for key, value in attributes.items()}
    assert found["source", "media"] == "(prefers-color-scheme: dark)"
    assert found["source", "srcset"] == "a%20%231/bars-dark.png"
    assert found["img", "src"] == "a%20%231/bars-light.png"
    assert found["img", "alt"] == "Bars: a #1"
    assert found["video", "src"] == "a%20%231/film.mp4"
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 5
    assert {"Bars", "Read <them>.", "Films", "a note"} <= set(page.words)
    assert "Nothing" not in page.words
    assert "://" not in path.read_text(encoding="utf-8"), "needs no network"


def test_helpful_errors() -> None:
    with pytest.raises(UserError, match="at least one model, each with its pixel Hessians"):
        pixel_hessian_figure({})
    with pytest.raises(UserError, match="at least one model, each with images and the penalty"):
        penalty_map_figure({})
    with pytest.raises(UserError, match=r"'a': `penalties` must hold .* \(5, 8, 8\), got shape \(5, 4, 8\)"):
        penalty_map_figure({"a": PenaltyMap(torch.zeros(5, 3, 8, 8), torch.zeros(5, 4, 8))})
    with pytest.raises(UserError, match=r"shares in \[0, 1\], .* got entries from 0 to 2"):
        factor_map_figure(np.array([[0.0, 2.0]]), ["x", "y"])
    with pytest.raises(UserError, match="`factors` must hold 2 names for a map of 1 x 2, got 1"):
        factor_map_figure(np.zeros((1, 2)), ["x"])
    with pytest.raises(UserError, match="`latent_names` must hold 1 names for a map of 1 x 2, got 2"):
        factor_map_figure(np.zeros((1, 2)), ["x", "y"], ["", ""])
