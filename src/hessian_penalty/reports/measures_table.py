"""The table of figures: a row for each measure, a column for each model, the change against the first model."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from hessian_penalty.reports.entry import ModelEntry, ModelGroup
from hessian_penalty.reports.figure_style import model_color
from hessian_penalty.reports.markup import Html, tag

_NOTEWORTHY = 0.005  # changes below half a percent count as none


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class MeasureRow:
    """One measure in the table.

    Args:
        key: in the record of measures; "total_activeness" is summed up here.
        label: name in words.
        note: how to understand it, in one line.
        better: which way is better; None where neither is.
        show: the value as text.
        absent: why it is missing, unless the entry knows better.
    """

    key: str
    label: str
    note: str
    better: Literal["lower", "higher"] | None
    show: Callable[[float], str]
    absent: str = "not measured"


ROWS = (
    MeasureRow(
        "effective_latents",
        "Effective latents",
        "how many latents carry the changes; all of them if they are equally active",
        "lower",
        lambda value: f"{value:.1f}",
    ),
    MeasureRow(
        "off_diagonal_share",
        "Off-diagonal share",
        "part of the squared Hessian in which latents alter each other's effect",
        "lower",
        lambda value: f"{100 * value:.0f}%",
    ),
    MeasureRow(
        "total_activeness",
        "Total activeness",
        "how much the latents, one by one, change the pictures; falls as their effects stop overlapping",
        None,
        _three_digits,
    ),
    MeasureRow(
        "frechet",
        "Fréchet distance",
        "between generated and real pictures, in the features of the network named",
        "lower",
        _three_digits,
        absent="needs the data set and the feature extractor",
    ),
    MeasureRow(
        "kimg",
        "Training",
        "thousands of real pictures seen (kimg)",
        None,
        lambda value: f"{value:,.0f} kimg",
        absent="not recorded",
    ),
)  # fmt: skip


def measure(entry: ModelEntry, key: str) -> float | None:
    """A measure of the model; None where it is missing or no number."""
    if key == "total_activeness":
        return None if entry.activeness is None else sum(entry.activeness)
    value = entry.measures.get(key)
    return None if value is None or not math.isfinite(value) else float(value)


def relative_change(entry: ModelEntry, reference: ModelEntry, key: str) -> float | None:
    """(value - reference) / reference; None where that means nothing: one is missing, or the extractors differ."""
    value, base = measure(entry, key), measure(reference, key)
    if value is None or base is None or base == 0 or entry is reference:
        return None
    if key == "frechet" and entry.measures.get("extractor") != reference.measures.get("extractor"):
        return None
    return (value - base) / abs(base)


def percent(change: float) -> str:
    """A change with its sign.

    >>> percent(-0.724), percent(1.5), percent(0.001)
    ('−72%', '+150%', '±0%')
    """
    if abs(change) < _NOTEWORTHY:
        return "±0%"
    return f"{100 * change:+.0f}%".replace("-", "\N{MINUS SIGN}")


def _verdict(change: float, better: str | None) -> str:
    if better is None or abs(change) < _NOTEWORTHY:
        return "same"
    return "better" if (change < 0) == (better == "lower") else "worse"


def _cell(entry: ModelEntry, reference: ModelEntry, row: MeasureRow, most: float, color: str) -> Html:
    value = measure(entry, row.key)
    if value is None:
        reason = entry.missing.get(row.key, row.absent)
        return tag("td", tag("span", "–", class_="value"), tag("small", reason), data_model=entry.name)
    shown = row.show(value)
    if row.key == "effective_latents" and entry.activeness is not None:
        shown += f" of {len(entry.activeness)}"
    parts: list[str] = [tag("span", shown, class_="value")]
    change = relative_change(entry, reference, row.key)
    if change is not None:
        verdict = _verdict(change, row.better)
        words = percent(change) + ("" if verdict == "same" else f" {verdict}")
        parts += [" ", tag("span", words, class_=f"change {verdict}")]
    if most > 0:
        width = max(0.0, min(1.0, value / most)) * 100
        parts.append(tag("span", tag("span", style=f"width:{width:.1f}%;background:{color}"), class_="bar"))
    if row.key == "frechet" and entry.measures.get("extractor"):
        parts.append(tag("small", entry.measures["extractor"]))
    return tag("td", *parts, data_model=entry.name)


def measures_table(group: ModelGroup) -> Html:
    """The table of one group as HTML."""
    entries, reference = group.entries, group.entries[0]
    heads = [
        tag("th", tag("span", class_="swatch", style=f"background:{model_color(index)}"), entry.name, scope="col")
        for index, entry in enumerate(entries)
    ]
    body = []
    for row in ROWS:
        values = [value for entry in entries if (value := measure(entry, row.key)) is not None]
        arrow = {"lower": " ↓", "higher": " ↑", None: ""}[row.better]
        spoken = f"{row.better} is better" if row.better else None
        head = tag(
            "th", row.label, tag("span", arrow, title=spoken, aria_label=spoken), tag("small", row.note), scope="row"
        )
        most = max(values) if len(values) > 1 else 0.0  # a bar alone says nothing
        cells = [_cell(entry, reference, row, most, model_color(index)) for index, entry in enumerate(entries)]
        body.append(tag("tr", head, *cells))
    caption = "↓ lower is better. Percentages: against " + reference.name if len(entries) > 1 else "↓ lower is better"
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption + "."),
            tag("thead", tag("tr", tag("td"), *heads)),
            tag("tbody", *body),
            class_="measures",
        ),
        class_="scroll",
    )
