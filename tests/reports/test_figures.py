import io
import re
import xml.etree.ElementTree as ElementTree
from itertools import combinations
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from hessian_penalty.errors import UserError
from hessian_penalty.reports.activeness_figure import activeness_comparison_figure, activeness_figure
from hessian_penalty.reports.figure_style import MODEL_COLORS, figure_png, figure_svg
from hessian_penalty.reports.hessian_figure import hessian_figure
from hessian_penalty.reports.training_figure import training_figure

HESSIAN = np.array([[3.0, 1.0, 0.5], [1.0, 2.0, 0.25], [0.5, 0.25, 4.0]])


def svg_texts(figure: Figure) -> list[str]:
    root = ElementTree.fromstring(figure_svg(figure))
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def widths(figure: Figure) -> list[float]:
    return [float(bar.get_width()) for bar in figure.axes[0].patches]  # type: ignore[attr-defined]


def test_bars_are_the_activeness_from_most_to_least() -> None:
    figure = activeness_figure([0.05, 0.2, 0.0], limit=0.4)
    assert widths(figure) == [0.2, 0.05, 0.0]
    assert figure.axes[0].get_xlim()[1] >= 0.4
    texts = svg_texts(figure)
    assert texts.index("z1") < texts.index("z0") < texts.index("z2")
    assert "0.200" in texts


def test_many_latents_are_counted_instead_of_drawn() -> None:
    figure = activeness_figure([0.01 * index for index in range(40)])
    assert len(widths(figure)) == 32
    assert any("8 less active ones not shown" in text for text in svg_texts(figure))


def test_a_dead_model_has_bars_of_no_length() -> None:
    assert widths(activeness_figure([0.0, 0.0])) == [0.0, 0.0]


def test_comparison_groups_models_by_rank_on_one_axis() -> None:
    figure = activeness_comparison_figure({"a": [0.1, 0.3], "b": [0.2, 0.4, 0.0]})
    bars: Any = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == [0.3, 0.1, 0.4, 0.2, 0.0]
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in bars] == [1, 2, 1, 2, 3]
    assert bars[0].get_facecolor() != bars[2].get_facecolor()
    assert {"a", "b"} <= set(svg_texts(figure))


def test_the_heat_map_shows_the_matrix_in_the_order_given() -> None:
    figure = hessian_figure(HESSIAN, order=[2, 0, 1], limit=8.0)
    image = figure.axes[0].images[0]
    assert (np.asarray(image.get_array()) == HESSIAN[np.ix_([2, 0, 1], [2, 0, 1])]).all()
    assert image.norm.vmin == 0
    assert image.norm.vmax == 8.0
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["z2", "z0", "z1"]


def test_the_logarithmic_heat_map_takes_zeros() -> None:
    figure = hessian_figure(np.diag([1.0, 0.0]), log=True)
    image = figure.axes[0].images[0]
    assert image.norm.vmax == 1
    assert image.norm.vmin == pytest.approx(1e-3)
    figure_png(figure)


def test_large_heat_maps_name_some_latents_and_no_entry_is_no_error() -> None:
    figure = hessian_figure(np.zeros((60, 60)))
    assert 12 <= len(figure.axes[0].get_yticks()) <= 24
    figure_png(figure)


def test_labels_of_the_heat_map_lie_inside_the_picture() -> None:
    figure = hessian_figure(np.eye(12), order=list(range(11, -1, -1)))
    figure.canvas.draw()
    for label in (*figure.axes[0].get_yticklabels(), *figure.axes[1].get_yticklabels(), figure.axes[0].title):
        box = label.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1


@pytest.mark.parametrize("width", [4.6, 8.6])
def test_the_names_of_many_models_lie_above_the_bars(width: float) -> None:
    models = {f"{number}otated-finetuned": [0.3, 0.2, 0.1] for number in range(8)}
    figure = activeness_comparison_figure(models, width=width)
    figure.canvas.draw()
    (names,) = figure.legends
    box = names.get_window_extent()
    assert box.y0 >= figure.axes[0].get_window_extent().y1
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1


def test_training_curves_draw_each_run_that_recorded_the_figure() -> None:
    runs = {
        "a": [{"kimg": 1.0, "penalty": 10.0, "critic_loss": 1.0}, {"kimg": 2.0, "penalty": 1.0, "critic_loss": 1.1}],
        "b": [{"kimg": 1.0, "critic_loss": 2.0}, {"kimg": 3.0}],
    }
    losses = training_figure("critic_loss", runs).axes[0].lines
    assert [line.get_label() for line in losses] == ["a", "b"]
    assert np.asarray(losses[0].get_xydata()).tolist() == [[1.0, 1.0], [2.0, 1.1]]
    assert np.asarray(losses[1].get_xydata()).tolist() == [[1.0, 2.0]]
    assert losses[1].get_marker() == "o"
    penalty = training_figure("penalty", runs, colors={"a": "#010203", "b": "#040506"})
    assert penalty.axes[0].get_yscale() == "log"
    assert penalty.axes[0].lines[0].get_color() == "#010203"
    assert "Penalty, unweighted (each run's own)" in svg_texts(penalty)
    assert "kimg" in svg_texts(penalty)


@pytest.mark.parametrize(("low", "ticks"), [(1.1, {"2", "5", "10"}), (3e-7, {"0.0001", "1"})])
def test_logarithmic_curves_have_ticks_whatever_their_range(low: float, ticks: set[str]) -> None:
    runs = {"a": [{"kimg": 1.0, "penalty": low}, {"kimg": 2.0, "penalty": 12.0}]}
    assert ticks <= set(svg_texts(training_figure("penalty", runs)))


def test_a_penalty_of_zero_is_drawn_on_a_linear_axis() -> None:
    figure = training_figure("penalty", {"a": [{"kimg": 1.0, "penalty": 0.0}]})
    assert figure.axes[0].get_yscale() == "linear"


def test_the_png_is_transparent_where_nothing_is_drawn() -> None:
    picture = Image.open(io.BytesIO(figure_png(activeness_figure([0.1, 0.2]))))
    assert picture.mode == "RGBA"
    assert picture.getpixel((0, 0))[3] == 0


def test_the_svg_follows_light_and_dark_and_is_the_same_each_time() -> None:
    svg, again = (figure_svg(activeness_figure([0.1, 0.2])) for _ in range(2))
    assert svg == again
    assert b"prefers-color-scheme: dark" in svg
    assert b"currentColor" in svg
    assert MODEL_COLORS[0].encode() in svg
    assert not re.search(rb"(fill|stroke): #(000000|ffffff)", svg), "fixed ink would vanish on one of the grounds"


def test_figures_leave_the_global_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    figure_svg(activeness_figure([0.1]))
    assert dict(matplotlib.rcParams) == before


XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # of linear sRGB


def linear_rgb(color: str) -> Any:
    channels = np.asarray(to_rgb(color))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("color", MODEL_COLORS)
@pytest.mark.parametrize("ground", ["#ffffff", "#0f1317"])
def test_model_colours_stand_out_on_both_grounds(color: str, ground: str) -> None:
    dark, bright = sorted(float(XYZ[1] @ linear_rgb(shown)) for shown in (color, ground))
    assert (bright + 0.05) / (dark + 0.05) >= 3  # WCAG 2.1, success criterion 1.4.11


# Linear sRGB as seen without one kind of cone: Machado, Oliveira & Fernandes, "A Physiologically-based Model for
# Simulation of Color Vision Deficiency", TVCG 2009, severity 1.
SIGHT = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


@pytest.mark.parametrize("sight", SIGHT)
def test_model_colours_are_told_apart(sight: str) -> None:
    def lab(color: str) -> Any:
        xyz = XYZ @ np.clip(np.asarray(SIGHT[sight]) @ linear_rgb(color), 0, 1) / XYZ.sum(axis=1)
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    apart = {pair: np.linalg.norm(lab(pair[0]) - lab(pair[1])) for pair in combinations(MODEL_COLORS, 2)}
    assert min(apart.values()) >= 20


def test_helpful_errors() -> None:
    with pytest.raises(UserError, match="one figure for each latent, got none"):
        activeness_figure([])
    with pytest.raises(UserError, match="at least one model"):
        activeness_comparison_figure({})
    with pytest.raises(UserError, match=r"square matrix of finite mean absolute values, got shape \(2, 3\)"):
        hessian_figure(np.zeros((2, 3)))
    with pytest.raises(UserError, match="entries from -1 to 0"):
        hessian_figure(np.array([[0.0, -1.0], [-1.0, 0.0]]))
    with pytest.raises(UserError, match=r"must be one of generator_loss, .* got 'loss'"):
        training_figure("loss", {})
    with pytest.raises(UserError, match="None of the runs a recorded 'r1'"):
        training_figure("r1", {"a": [{"kimg": 1.0}]})
