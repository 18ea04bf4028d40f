"""The sections of one group: every kind of picture once, with the models side by side."""

from collections.abc import Callable

import numpy as np

from hessian_penalty.reports.activeness_figure import activeness_comparison_figure, activeness_figure
from hessian_penalty.reports.entry import ModelEntry, ModelGroup
from hessian_penalty.reports.factor_map_figure import factor_map_figure
from hessian_penalty.reports.figure_style import figure_svg, model_color
from hessian_penalty.reports.hessian_figure import hessian_figure
from hessian_penalty.reports.markup import Html, data_uri, join, looping_video, png_image, svg_image, tag
from hessian_penalty.reports.training_figure import PANELS, recorded_panels, training_figure
from hessian_penalty.reports.traversals import MOST_ROWS, by_activeness


def _swatch(color: str) -> Html:
    return tag("span", class_="swatch", style=f"background:{color}")


def _absent(reason: str) -> Html:
    return tag("p", "– ", reason, class_="absent")


def _side_by_side(title: str, reading: str, group: ModelGroup, draw: Callable[[ModelEntry, str], Html]) -> Html:
    """A figure that holds one figure a model; the outer caption says how to read them all."""
    figures = []
    for index, entry in enumerate(group.entries):
        color = model_color(index)
        name = tag("figcaption", _swatch(color), tag("b", entry.name))
        figures.append(tag("figure", name, draw(entry, color)))
    return tag(
        "section",
        tag("h3", title),
        tag("figure", tag("figcaption", reading, class_="reading"), tag("div", *figures, class_="models")),
    )


def samples_section(group: ModelGroup) -> Html:
    """Sample sheets."""
    reading = "Random pictures. Quality and variety should not fall from one model to the next."
    return _side_by_side(
        "Samples", reading, group, lambda entry, _: png_image(entry.samples_png, f"Random pictures from {entry.name}")
    )


def traversal_section(group: ModelGroup) -> Html:
    """Still traversals."""
    reading = (
        "Each row moves one latent from \N{MINUS SIGN}2 (left) to +2 (right) and keeps the others; the most active "
        "latent is on top, its activeness under its name. Disentangled: a row changes one property only, and rows at "
        "the bottom change nothing."
    )
    return _side_by_side(
        "Traversals",
        reading,
        group,
        lambda entry, _: png_image(
            entry.traversal_png, f"Traversals of {entry.name}: a row for each latent, from minus 2 to plus 2"
        ),
    )


def video_section(group: ModelGroup) -> Html:
    """Traversals in motion; nothing where no model has a video."""
    if all(entry.traversal_mp4 is None for entry in group.entries):
        return join()

    def video(entry: ModelEntry, _: str) -> Html:
        if entry.traversal_mp4 is None:
            return _absent(entry.missing.get("traversal_mp4", "no video was made"))
        return looping_video(
            data_uri("video/mp4", entry.traversal_mp4), f"Looping traversal of {entry.name}: a row for each latent"
        )

    reading = (
        "The same rows in motion, each column another picture: a row that stands still is a latent without effect, and "
        "a row should do the same thing in every column."
    )
    return _side_by_side("Traversals in motion", reading, group, video)


def activeness_section(group: ModelGroup) -> Html:
    """Activeness bars: all models in one figure, then each by itself."""
    known = {entry.name: entry.activeness for entry in group.entries if entry.activeness is not None}
    colors = [model_color(index) for index, entry in enumerate(group.entries) if entry.activeness is not None]
    comparison = join()
    if len(known) > 1:
        figure = activeness_comparison_figure(known, colors=colors)
        reading = (
            "All models in one: a steep fall from left to right means that few latents do the work, a flat line that "
            "the work is spread over all."
        )
        picture = svg_image(figure_svg(figure), "Activeness by rank, for " + ", ".join(known))
        comparison = tag(
            "figure", tag("figcaption", reading, class_="reading"), tag("div", picture, class_="scroll"), class_="wide"
        )
    limit = max((max(values) for values in known.values()), default=None)

    def bars(entry: ModelEntry, color: str) -> Html:
        if entry.activeness is None:
            return _absent(entry.missing.get("activeness", "activeness was not measured"))
        return svg_image(
            figure_svg(activeness_figure(entry.activeness, color=color, limit=limit)),
            f"Activeness bars of {entry.name}",
        )

    reading = (
        "How much a picture changes, pixel by pixel, when one latent moves; one axis for all models. Disentangled: a "
        "few long bars, and the latents that are not needed at nought."
    )
    return join(_side_by_side("Activeness", reading, group, bars), comparison)


def hessian_section(group: ModelGroup) -> Html:
    """Heat maps of |Hessian| on one colour scale."""
    known = [entry.hessian for entry in group.entries if entry.hessian is not None]
    limit = max((float(hessian.max()) for hessian in known), default=None)

    def heat_map(entry: ModelEntry, _: str) -> Html:
        if entry.hessian is None:
            return _absent(entry.missing.get("hessian", "the Hessian was not measured"))
        order = by_activeness(entry.activeness) if entry.activeness is not None else None
        return svg_image(
            figure_svg(hessian_figure(entry.hessian, order=order, limit=limit)),
            f"Heat map of the mean absolute Hessian of {entry.name}",
        )

    reading = (
        "Bright at row i and column j: latent i alters what latent j does. The diagonal is each latent's own "
        "curvature. Disentangled: dark off the diagonal. One colour scale for all models, latents in the order of the "
        "traversals."
    )
    return _side_by_side("Hessian", reading, group, heat_map)


def factor_section(group: ModelGroup) -> Html:
    """Which latent carries which factor; nothing where no model was audited."""
    if all(entry.measures.get("audit") is None for entry in group.entries):
        return join()

    def factor_map(entry: ModelEntry, _: str) -> Html:
        audit = entry.measures.get("audit")
        if audit is None:
            return _absent(entry.missing.get("audit", "not audited"))
        figure = factor_map_figure(
            np.asarray(audit["mutual_information"]),
            audit["factors"],
            audit["latent_names"],
            order=by_activeness(entry.activeness) if entry.activeness is not None else None,
        )
        return svg_image(figure_svg(figure), f"Map of latents and factors of {entry.name}")

    scores = next(
        dict(zip(audit["factors"], audit["probe_scores"], strict=True))
        for entry in group.entries
        if (audit := entry.measures.get("audit")) is not None
    )
    probe = ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
    reading = (
        "How much a latent tells of each factor of the data, 0 to 1, as a probe sees the factors in generated "
        "pictures; latents in the order of the traversals, and named after what they carry. Disentangled: one bright "
        "cell a row and one a column. The probe itself scores, on real pictures that it has not seen: " + probe + "."
    )
    return _side_by_side("Factors", reading, group, factor_map)


def training_section(group: ModelGroup) -> Html:
    """Training curves, all models in each; nothing where none has records."""
    runs = {entry.name: entry.metrics for entry in group.entries if entry.metrics}
    keys = recorded_panels(runs)
    if not keys:
        return join()
    colors = {entry.name: model_color(index) for index, entry in enumerate(group.entries)}
    reading = (
        "Losses of an adversarial game do not fall to nought: look for level curves without jumps, and a Hessian "
        "Penalty that falls."
    )
    legend = [tag("span", _swatch(colors[name]), name, class_="key") for name in runs]
    panels = [
        tag(
            "figure",
            svg_image(figure_svg(training_figure(key, runs, colors=colors)), f"{PANELS[key]} of {', '.join(runs)}"),
        )
        for key in keys
    ]
    caption = tag("figcaption", reading, tag("span", *legend, class_="keys"), class_="reading")
    return tag("section", tag("h3", "Training"), tag("figure", caption, tag("div", *panels, class_="panels")))


def rows_note(group: ModelGroup) -> Html:
    """Says so where traversals leave latents out."""
    longest = max((len(entry.activeness) for entry in group.entries if entry.activeness is not None), default=0)
    if longest <= MOST_ROWS:
        return join()
    return tag("p", f"Traversals show the {MOST_ROWS} most active latents of {longest}.", class_="note")
