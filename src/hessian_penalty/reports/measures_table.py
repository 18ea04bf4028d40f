"""The table of figures: a row for each measure, a column for each model, the change against the first model."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hessian_penalty.reports.entry import ModelEntry, ModelGroup
from hessian_penalty.reports.figure_style import model_color
from hessian_penalty.reports.markup import Html, tag

_NETWORKS = {"frechet": "extractor", "kernel": "extractor", "path_length": "perceptual_distance"}  # whose eyes
_NOTEWORTHY = 0.005  # changes below half a percent count as none


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True)
class MeasureRow:
    """One measure in the table.

    Args:
        key: in the record of measures, "audit.mig" for a nested one; "total_activeness" is summed up here, and
            "curvature", all squared entries of the Hessian, is the penalty over the share.
        label: name in words.
        note: how to understand it, in one line.
        better: which way is better; None where neither is.
        show: the value as text.
        absent: why it is missing, unless the entry knows better.
        optional: whether the row is left out where no model has it.
    """

    key: str
    label: str
    note: str
    better: Literal["lower", "higher"] | None
    show: Callable[[float], str]
    absent: str = "not measured"
    optional: bool = False

    @property
    def arrow(self) -> str:
        """The way that is better."""
        return {"lower": " ↓", "higher": " ↑", None: ""}[self.better]

    def label_in(self, records: Iterable[Mapping[str, Any]]) -> str:
        """The name; distances of Inception's features have names of their own."""
        networks = {record.get("extractor") for record in records if value_of(record, self.key) is not None}
        return (
            {"frechet": "FID", "kernel": "KID"}.get(self.key, self.label)
            if networks == {"inception-v3"}
            else self.label
        )


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _score(key: str, label: str, note: str) -> MeasureRow:
    return MeasureRow(key, label, note, "higher", lambda value: f"{value:.3f}", optional=True)


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
        _percent,
    ),
    MeasureRow(
        "penalty",
        "Hessian Penalty",
        "of the images: squared Hessian entries off the diagonal, mean over pixels",
        "lower",
        _three_digits,
        optional=True,
    ),
    MeasureRow(
        "diagonal_fraction",
        "Diagonal Hessians",
        "part of the pixels' Hessians whose largest entry lies on the diagonal",
        "higher",
        _percent,
        optional=True,
    ),
    MeasureRow(
        "diagonal_ratio",
        "Diagonal ratio",
        "mean Hessian entry on the diagonal over the mean off it, by pixel",
        "higher",
        _three_digits,
        optional=True,
    ),
    _score("audit.mig", "Mutual information gap", "between the two latents that tell most of a factor, 0 to 1 (MIG)"),
    _score("audit.mig_grouped", "MIG, grouped", "the same, with two latents for the place and two for a hue"),
    _score("audit.sap", "Separated predictability", "gap between the two latents that best predict a factor (SAP)"),
    _score("audit.dci_disentanglement", "Disentanglement", "each latent serves one factor only, 0 to 1 (DCI)"),
    _score("audit.dci_completeness", "Completeness", "each factor is served by one latent only, 0 to 1 (DCI)"),
    _score("audit.dci_informativeness", "Informativeness", "how well all latents together predict the factors (DCI)"),
    MeasureRow(
        "predictability",
        "Variation predictability",
        "how often a network tells which latent changed, on pairs it has not seen",
        "higher",
        _percent,
        optional=True,
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
        "kernel",
        "Kernel distance",
        "the same question without a Gaussian fit, and unbiased, so that it may fall below 0",
        "lower",
        _three_digits,
        optional=True,
    ),
    MeasureRow(
        "path_length",
        "Path length",
        "how fast pictures change along paths between latents, to the network named",
        "lower",
        _three_digits,
        optional=True,
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


def value_of(measures: Mapping[str, Any], key: str) -> float | None:
    """A measure of a record; None where it is missing or no number.

    >>> value_of({"audit": {"mig": 0.25}, "activeness": [0.5, 0.25]}, "audit.mig")
    0.25
    """
    if key == "total_activeness":
        activeness = measures.get("activeness")
        return None if activeness is None else float(sum(activeness))
    if key == "curvature":
        penalty, share = measures.get("penalty"), measures.get("off_diagonal_share")
        return penalty / share if penalty and share else None
    value: Any = measures
    for part in key.split("."):
        value = (value or {}).get(part)
    return None if value is None or not math.isfinite(value) else float(value)


def measure(entry: ModelEntry, key: str) -> float | None:
    """A measure of the model; None where it is missing or no number."""
    return value_of(entry.measures, key)


def known_rows(records: Iterable[Mapping[str, Any]], rows: Iterable[MeasureRow] = ROWS) -> list[MeasureRow]:
    """The measures that one of the records has at least."""
    records = list(records)
    return [row for row in rows if any(value_of(record, row.key) is not None for record in records)]


def relative_change(entry: ModelEntry, reference: ModelEntry, key: str) -> float | None:
    """(value - reference) / reference; None where that means nothing: one is missing, or the extractors differ."""
    value, base = measure(entry, key), measure(reference, key)
    if value is None or base is None or base == 0 or entry is reference:
        return None
    network = _NETWORKS.get(key, "")
    if entry.measures.get(network) != reference.measures.get(network):
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
    network = entry.measures.get(_NETWORKS.get(row.key, ""))
    if network:
        parts.append(tag("small", network))
    return tag("td", *parts, data_model=entry.name)


def measures_table(group: ModelGroup) -> Html:
    """The table of one group as HTML."""
    entries, reference = group.entries, group.entries[0]
    heads = [
        tag("th", tag("span", class_="swatch", style=f"background:{model_color(index)}"), entry.name, scope="col")
        for index, entry in enumerate(entries)
    ]
    body = []
    records = [entry.measures for entry in entries]
    known = known_rows(records)
    for row in (row for row in ROWS if row in known or not row.optional):
        values = [value for entry in entries if (value := measure(entry, row.key)) is not None]
        spoken = f"{row.better} is better" if row.better else None
        head = tag(
            "th",
            row.label_in(records),
            tag("span", row.arrow, title=spoken, aria_label=spoken),
            tag("small", row.note),
            scope="row",
        )
        most = max(values) if len(values) > 1 else 0.0  # a bar alone says nothing
        cells = [_cell(entry, reference, row, most, model_color(index)) for index, entry in enumerate(entries)]
        body.append(tag("tr", head, *cells))
    caption = "↓ lower is better, ↑ higher"
    if len(entries) > 1:
        caption += f". Percentages: against {reference.name}"
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
