"""The figures of runs as files: light and dark, one by one and side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hessian_penalty.errors import UserError
from hessian_penalty.reports.activeness_figure import activeness_comparison_figure, activeness_figure
from hessian_penalty.reports.factor_map_figure import factor_map_figure
from hessian_penalty.reports.figure_files import (
    Exhibit,
    FigureFiles,
    write_figure,
    write_index,
    write_picture,
    write_video,
)
from hessian_penalty.reports.figure_style import Theme
from hessian_penalty.reports.hessian_figure import hessian_figure
from hessian_penalty.reports.penalty_map_figure import penalty_map_figure
from hessian_penalty.reports.pixel_hessian_figure import pixel_hessian_figure
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.reports.training_figure import PANELS, recorded_panels, training_figure
from hessian_penalty.reports.traversal_video import traversal_mp4
from hessian_penalty.reports.traversals import MOST_ROWS, traversal_grid
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.comparison import Progress
from hessian_penalty.studies.figure_models import FigureModel, FigureSettings, open_models

Exhibits = dict[str, dict[str, FigureFiles]]  # title → caption → files

_TILE_PIXELS = 128  # pictures are enlarged to at least this
_WIDE = 4.6  # inches: at half the width of a page its text is still legible
_STEPS = ("measuring", "penalties of pixels", "pictures", "filming")  # of each model

_READING = {
    "Samples": "Random pictures, for the same seed.",
    "Traversals": "Each row moves one latent from \N{MINUS SIGN}2 (left) to +2 (right), the most active on top with "
    "its activeness under its name. Disentangled: a row changes one property only.",
    "Traversals in motion": "The same rows, each column another picture.",
    "Activeness": "How much a picture changes, pixel by pixel, when one latent moves; one axis for all models.",
    "Hessian": "Bright at row i and column j: latent i alters what latent j does. Latents in the order of their "
    "activeness, one colour scale for all models.",
    "Hessians of single pixels": "Of the image element with the largest penalty, and of a random one; a dot shows "
    "where it lies. One logarithmic colour scale for all models. Disentangled: dark off the diagonal.",
    "Penalty of every pixel": "Hot where latents alter each other's effect; one colour scale for all models.",
    "Training": "Figures recorded during training, over thousands of images seen.",
    "Factors": "How much each latent tells of each ground-truth factor. Disentangled: one bright cell a row and one a "
    "column.",
}


@dataclass(frozen=True)
class WrittenFigures:
    """What was written.

    Args:
        index: the page that shows all figures.
        figures: files of each figure.
        notes: what was left out and why.
    """

    index: Path
    figures: tuple[FigureFiles, ...]
    notes: tuple[str, ...]


def write_figures(
    runs: Sequence[RunFolder],
    out: str | Path,
    settings: FigureSettings | None = None,
    *,
    progress: Progress | None = None,
) -> WrittenFigures:
    """Write all figures of some runs and a page that shows them.

    Those of one model lie in a folder of its name, those of all models beside the page. Runs may differ in resolution
    and number of latents. The factor map is drawn where a run's measures.json holds an audit of its newest checkpoint.

    Args:
        out: folder; figures of the same name in it are replaced.
        progress: called with (steps done, steps in all, what is next).

    Raises:
        UserError: no run, one given twice or without checkpoint, or `out` is a file.
    """
    settings, out = settings or FigureSettings(), Path(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: name a folder for the figures, as --out figures.")
    models = open_models(runs)
    total = len(_STEPS) * len(models) + 1
    steps = ((model, step) for model in models for step in _STEPS)
    exhibits: Exhibits = {title: {} for title in _READING}
    for done, (model, step) in enumerate(steps):
        if progress:
            progress(done, total, f"{model.name}: {step}")
        if step == "measuring":
            model.measure(settings)
        elif step == "penalties of pixels":
            model.take_penalties(settings)
        elif step == "pictures":
            _draw_pictures(model, out, exhibits, settings)
        elif step == "filming" and settings.frames:
            film = traversal_mp4(
                model.generator, activeness=model.activeness, most=MOST_ROWS, seed=settings.seed,
                frames=settings.frames, batch_size=settings.batch_size,
            )  # fmt: skip
            exhibits["Traversals in motion"][model.name] = write_video(film, out / model.name, "traversal")
    if progress:
        progress(total - 1, total, "figures")
    for model in models:
        _draw_own(model, models, out, exhibits)
    _draw_shared(models, out, exhibits)
    notes = _absences(models)
    index = write_index(
        out,
        "Figures of " + ", ".join(model.name for model in models),
        [Exhibit(title, reading, exhibits[title]) for title, reading in _READING.items()],
        notes,
    )
    if progress:
        progress(total, total, "")
    return WrittenFigures(index, tuple(files for shown in exhibits.values() for files in shown.values()), tuple(notes))


def _draw_pictures(model: FigureModel, out: Path, exhibits: Exhibits, settings: FigureSettings) -> None:
    G, scale = model.generator, -(-_TILE_PIXELS // model.generator.resolution)
    letters = scale * G.resolution // 4

    def samples(theme: Theme) -> Any:
        return sample_sheet(G, seed=settings.seed, scale=scale, gap=4, background=theme.ground_rgb)

    def traversal(theme: Theme) -> Any:
        return traversal_grid(
            G, activeness=model.activeness, most=MOST_ROWS, seed=settings.seed, scale=scale, gap=4, letters=letters,
            background=theme.ground_rgb, ink=theme.ink_rgb,
        )  # fmt: skip

    folder = out / model.name
    exhibits["Samples"][model.name] = write_picture(samples, folder, "samples")
    exhibits["Traversals"][model.name] = write_picture(traversal, folder, "traversal")


def _draw_own(model: FigureModel, models: Sequence[FigureModel], out: Path, exhibits: Exhibits) -> None:
    """The figures that each model has to itself, on scales that all share."""
    folder, name, audit = out / model.name, model.name, model.audit
    most_active = max(max(other.activeness) for other in models)
    strongest = max(float(other.hessian.max()) for other in models)
    exhibits["Activeness"][name] = write_figure(
        lambda theme: activeness_figure(model.activeness, color=model.color, limit=most_active, theme=theme),
        folder,
        "activeness",
    )
    exhibits["Hessian"][name] = write_figure(
        lambda theme: hessian_figure(model.hessian, order=model.order, limit=strongest, theme=theme), folder, "hessian"
    )
    if audit is not None:
        exhibits["Factors"][name] = write_figure(
            lambda theme: factor_map_figure(
                np.array(audit["mutual_information"], dtype=np.float64), audit["factors"], audit["latent_names"],
                order=model.order, theme=theme,
            ),
            folder,
            "factors",
        )  # fmt: skip


def _draw_shared(models: Sequence[FigureModel], out: Path, exhibits: Exhibits) -> None:
    """The figures in which all models stand."""
    colors = {model.name: model.color for model in models}
    if len(models) > 1:
        active = {model.name: model.activeness for model in models}
        exhibits["Activeness"]["all models"] = write_figure(
            lambda theme: activeness_comparison_figure(active, width=_WIDE, theme=theme), out, "activeness"
        )
    pixels = {model.name: model.pixels for model in models if model.pixels is not None}
    heat = {model.name: model.heat for model in models if model.heat is not None}
    if pixels:
        orders = {model.name: model.order for model in models}
        exhibits["Hessians of single pixels"][", ".join(pixels)] = write_figure(
            lambda theme: pixel_hessian_figure(pixels, orders=orders, theme=theme), out, "pixel-hessians"
        )
        exhibits["Penalty of every pixel"][", ".join(heat)] = write_figure(
            lambda theme: penalty_map_figure(heat, theme=theme), out, "penalty-maps"
        )
    records = {model.name: found for model in models if (found := model.run.metrics())}
    for key in recorded_panels(records):

        def curves(theme: Theme, key: str = key) -> Any:
            return training_figure(key, records, colors=colors, legend=len(models) > 1, theme=theme)

        exhibits["Training"][PANELS[key]] = write_figure(curves, out, f"training-{key.replace('_', '-')}")


def _absences(models: Sequence[FigureModel]) -> list[str]:
    """A line for each figure that could not be drawn."""
    lines = [
        f"{model.name}: no factor map; `hessian-penalty evaluate {model.run.path}` makes the audit that it shows, "
        "where the data has ground truth."
        for model in models
        if model.audit is None
    ]
    lines += [
        f"{model.name}: no penalty of pixels; a single latent has none whose effect it could alter."
        for model in models
        if model.pixels is None
    ]
    lines += [
        f"{model.name}: no training curves; it has no metrics.jsonl." for model in models if not model.run.metrics()
    ]
    return lines
