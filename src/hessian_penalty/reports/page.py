"""One self-contained HTML page that puts models side by side."""

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path

from hessian_penalty.errors import UserError
from hessian_penalty.reports import sections
from hessian_penalty.reports.entry import ModelGroup
from hessian_penalty.reports.figure_style import model_color
from hessian_penalty.reports.markup import Html, join, tag
from hessian_penalty.reports.measures_table import measures_table
from hessian_penalty.reports.provenance import provenance_section, settings_details
from hessian_penalty.runs import atomic_path

# The browser itself then refuses whatever is not inside the page.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def write_report(
    path: str | Path,
    title: str,
    groups: Sequence[ModelGroup],
    *,
    summary: Html | None = None,
    command: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write the page, atomically.

    Args:
        path: of the HTML file.
        title: heading of the page.
        groups: models that are compared with each other.
        summary: section before the groups.
        command: the command line that made the page.
        provenance: further facts, name → text.

    Raises:
        UserError: there is no group.
    """
    page = report_html(title, groups, summary=summary, command=command, provenance=provenance)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def report_html(
    title: str,
    groups: Sequence[ModelGroup],
    *,
    summary: Html | None = None,
    command: str | None = None,
    provenance: Mapping[str, str] | None = None,
) -> str:
    """The page as text; see `write_report`."""
    if not groups:
        raise UserError("The report holds no group of models: give at least one run.")
    return html_page(
        title,
        [_how_to_read(), _contents(groups)],
        [summary or join(), *(_group(group, index) for index, group in enumerate(groups))],
        provenance_section(command, provenance or {}),
    )


def html_page(
    title: str, introduction: Sequence[Html], sections: Sequence[Html], footer: Html, *, files: bool = False
) -> str:
    """A whole page as text, in the house's style, which follows the reader's light or dark preference.

    Args:
        files: whether pictures and videos may be files beside the page.
    """
    policy = _POLICY.replace("data:", "data: 'self' file:") if files else _POLICY
    style = importlib.resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), *introduction),
        tag("main", *sections),
        tag("footer", footer),
    )
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def _how_to_read() -> Html:
    meaning = tag(
        "p",
        "A generator turns a handful of numbers, its ", tag("em", "latents"), " z0, z1, …, into a picture. In an "
        "ordinary one every latent changes a bit of everything. In a ", tag("em", "disentangled"), " one each latent "
        "changes one thing (a place, a colour, a size), and those that are not needed change nothing. The Hessian "
        "Penalty pushes a generator there: it punishes a latent for altering what another latent does.",
    )  # fmt: skip
    reading = tag(
        "p",
        "Start with the table, then watch the traversals: the models differ where their rows do. A model is better "
        "only if its latents are tidier ", tag("em", "and"), " its samples are as good as before. Each model keeps its "
        "colour throughout, and each figure says above it how to read it.",
    )  # fmt: skip
    return tag("section", tag("h2", "How to read this page"), tag("div", meaning, reading), class_="how")


def _contents(groups: Sequence[ModelGroup]) -> Html:
    if len(groups) < 2:
        return join()
    links = [tag("li", tag("a", group.name, href=f"#group-{index}")) for index, group in enumerate(groups)]
    return tag("nav", tag("ul", *links), aria_label="Groups of models")


def _group(group: ModelGroup, index: int) -> Html:
    models = []
    for place, entry in enumerate(group.entries):
        swatch = tag("span", class_="swatch", style=f"background:{model_color(place)}")
        models += [tag("dt", swatch, entry.name), tag("dd", entry.description)]
    return tag(
        "section",
        tag("h2", group.name),
        tag("p", group.description) if group.description else join(),
        tag("dl", *models, class_="legend"),
        measures_table(group),
        sections.samples_section(group),
        sections.traversal_section(group),
        sections.video_section(group),
        sections.rows_note(group),
        sections.activeness_section(group),
        sections.factor_section(group),
        sections.hessian_section(group),
        sections.training_section(group),
        settings_details(group),
        class_="group",
        id=f"group-{index}",
    )
