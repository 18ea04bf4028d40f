"""The result of a study: mean and spread of every measure over the seeds, as text, JSON and a part of a page."""

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hessian_penalty.reports.markup import Html, tag
from hessian_penalty.reports.measures_table import ROWS, MeasureRow, known_rows, value_of

Records = Mapping[str, Mapping[int, Mapping[str, Any]]]  # model → seed → record of measures


@dataclass(frozen=True)
class Spread:
    """A measure over the seeds.

    Args:
        values: by seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Unbiased standard deviation; None of a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


def _as_precise(row: MeasureRow, shown: str, deviation: float) -> str:
    """A deviation with as many decimals as its mean is shown with."""
    text = row.show(deviation).lstrip("+±")
    return text if text.endswith("%") else f"{deviation:,.{len(shown.partition('.')[2])}f}"


class StudyTable:
    """All measures of all models.

    >>> StudyTable({"vanilla": {}}).rows
    []

    Args:
        records: what was measured.
        rows: what is shown of it, where a model has it.
    """

    def __init__(self, records: Records, rows: Iterable[MeasureRow] = ROWS) -> None:
        self._records = records
        self.models = list(records)
        self._all = [record for seeds in records.values() for record in seeds.values()]
        self.rows = known_rows(self._all, rows)

    def spread(self, model: str, row: MeasureRow) -> Spread | None:
        """A measure of a model; None where no seed has it."""
        values = [value_of(record, row.key) for record in self._records[model].values()]
        known = tuple(value for value in values if value is not None)
        return Spread(known) if known else None

    def label(self, row: MeasureRow) -> str:
        """Name of a measure, and the way that is better."""
        return row.label_in(self._all) + row.arrow

    def cell(self, model: str, row: MeasureRow) -> str:
        """Mean ± standard deviation as text."""
        spread = self.spread(model, row)
        if spread is None:
            return "–"
        shown = row.show(spread.mean)
        return shown if spread.deviation is None else f"{shown} ± {_as_precise(row, shown, spread.deviation)}"

    def best(self, row: MeasureRow) -> set[str]:
        """The model with the best mean; none where no way is better."""
        means = {model: spread.mean for model in self.models if (spread := self.spread(model, row)) is not None}
        if row.better is None or len(means) < 2:
            return set()
        choose = min if row.better == "lower" else max
        wanted = choose(means.values())
        return {model for model, mean in means.items() if mean == wanted}

    def markdown(self) -> str:
        """A table with a line a measure and a column a model; the best mean in bold."""
        lines = ["| | " + " | ".join(self.models) + " |", "|---" * (len(self.models) + 1) + "|"]
        for row in self.rows:
            best = self.best(row)
            cells = [f"**{text}**" if m in best else text for m in self.models for text in [self.cell(m, row)]]
            lines.append(f"| {self.label(row)} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"

    def html(self, caption: str) -> Html:
        """The same as a part of a page."""
        heads = [tag("th", model, scope="col") for model in self.models]
        body = []
        for row in self.rows:
            best = self.best(row)
            cells = [
                tag("td", tag("b", text) if m in best else text) for m in self.models for text in [self.cell(m, row)]
            ]
            body.append(tag("tr", tag("th", self.label(row), tag("small", row.note), scope="row"), *cells))
        table = tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", tag("td"), *heads)),
            tag("tbody", *body),
            class_="measures",
        )
        return tag("div", table, class_="scroll")

    def record(self) -> dict[str, Any]:
        """Mean, deviation and the values of each seed, by model and measure, as JSON takes it."""
        summary: dict[str, Any] = {}
        for model in self.models:
            spreads = {row.key: self.spread(model, row) for row in self.rows}
            summary[model] = {
                key: {"mean": spread.mean, "deviation": spread.deviation, "values": list(spread.values)}
                for key, spread in spreads.items()
                if spread is not None
            }
        return summary
