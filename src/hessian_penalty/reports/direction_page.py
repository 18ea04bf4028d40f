"""One self-contained HTML page about found directions."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hessian_penalty.directions.directions import Directions
from hessian_penalty.reports.activeness_figure import activeness_figure
from hessian_penalty.reports.figure_style import figure_svg
from hessian_penalty.reports.markup import Html, data_uri, join, looping_video, png_image, svg_image, tag
from hessian_penalty.reports.page import html_page
from hessian_penalty.reports.provenance import flatten, provenance_section
from hessian_penalty.runs import atomic_path

PAGE_NAME, SHEET_NAME = "report.html", "directions.png"
MOST_EMBEDDED = 24_000_000  # bytes of video inside the page; further files are linked


def directions_page(
    directions: Directions,
    folder: str | Path,
    title: str,
    *,
    sheet: Path | None,
    videos: Sequence[Path],
    command: str | None = None,
) -> None:
    """Write `report.html` into a folder, with a sheet and videos.

    Both become part of the page, as long as the videos are not too large together; the others are linked, and have to
    stay beside it. No other file of the folder is looked at: it may hold pictures of an earlier search.

    Args:
        directions: what the page is about.
        folder: where the page goes, and where the videos are.
        title: heading of the page.
        sheet: as `direction_sheet` wrote it; None where there is none.
        videos: as `direction_videos` returned them, in the order in which they are shown.
        command: the command line that made it.
    """
    contents: dict[str, bytes | None] = {}
    room = MOST_EMBEDDED
    for path in videos:
        room -= path.stat().st_size
        contents[path.name] = path.read_bytes() if room >= 0 else None
    section = directions_section(directions, sheet_png=sheet.read_bytes() if sheet else None, videos=contents)
    page = html_page(title, [_how_to_read()], [section], provenance_section(command, {}))
    with atomic_path(Path(folder) / PAGE_NAME) as temporary:
        temporary.write_text(page, encoding="utf-8")


def directions_section(
    directions: Directions,
    *,
    sheet_png: bytes | None = None,
    videos: Mapping[str, bytes | None] | None = None,
) -> Html:
    """What there is to see and to know of directions: sheet, videos, activeness, provenance; each where it is known.

    Args:
        directions: what was found.
        sheet_png: as `direction_sheet` writes it.
        videos: file name → the MP4 itself, or None to link to the file.
    """
    method = directions.provenance.get("method")
    found = f"found by the method {method!r}" if method else "of unknown origin"
    return tag(
        "section",
        tag("h2", f"{len(directions)} directions in a space of {directions.matrix.shape[1]} latents, {found}"),
        _figure(
            "Directions",
            "Each row places one picture, or a few, along a direction: what the picture had along it is taken out "
            "first, so that a column means the same in every row.",
            png_image(sheet_png, "Pictures along each direction, a row for each") if sheet_png else join(),
        ),
        _figure(
            "In motion",
            "Each row is a direction, each column another picture: a good direction does the same to all of them.",
            join(*(_video(name, content) for name, content in (videos or {}).items())),
            class_="panels",
        ),
        _figure("Activeness", "How much a picture changes, pixel by pixel, along each direction.", _bars(directions)),
        _figure("How they were found", "Settings and results of the search.", _provenance(directions)),
        class_="group",
    )


def _how_to_read() -> Html:
    text = tag(
        "p",
        "A ", tag("em", "direction"), " is a way to move a generator's input. In a good set each changes one thing "
        "about the picture, and the same thing in every picture, however far it was moved along the others. What that "
        "is no method knows: name the directions yourself, after what you see.",
    )  # fmt: skip
    return tag("section", tag("h2", "How to read this page"), tag("div", text), class_="how")


def _figure(title: str, reading: str, content: Html, class_: str = "scroll") -> Html:
    if not content:
        return content
    caption = tag("figcaption", reading, class_="reading")
    return tag("section", tag("h3", title), tag("figure", caption, tag("div", content, class_=class_)))


def _video(name: str, content: bytes | None) -> Html:
    if content is None:
        return tag("p", tag("a", name, href=name), class_="note")
    video = looping_video(data_uri("video/mp4", content), f"Looping pictures along directions: {name}")
    return tag("figure", tag("figcaption", name), video)


def _bars(directions: Directions) -> Html:
    if directions.activeness is None:
        return join()
    figure = activeness_figure(directions.activeness.tolist(), prefix="direction ")
    return svg_image(figure_svg(figure), "Activeness bars of the directions")


def _provenance(directions: Directions) -> Html:
    facts = dict(directions.provenance)
    penalties = facts.pop("held_out_penalties", None)
    lines = flatten(facts)
    if penalties:
        shown = " \N{RIGHTWARDS ARROW} ".join(f"{value:.3f}" for value in penalties)
        lines["held_out_penalties"] = f"{shown} (of that of the basis it began with, after each round)"
    if not lines:
        return join()
    rows = [tag("tr", tag("th", name, scope="row"), tag("td", text)) for name, text in lines.items()]
    return tag("table", tag("tbody", *rows), class_="settings")
