"""`hessian-penalty evaluate`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.text import Text

from hessian_penalty.cli.model_tables import print_models
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.cli.protocol_options import split_protocol
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config
from hessian_penalty.metrics.frechet import few_images_note
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.reports.measures_table import known_rows, value_of
from hessian_penalty.runs import RunFolder, write_json
from hessian_penalty.studies.comparison import measure_runs
from hessian_penalty.studies.evaluation import Evaluator, data_of


@dataclass
class Command:
    """Measure runs by every measure of the field and print them side by side.

    What each latent learned: activeness, effective latents, Hessians, variation predictability, and where the data has
    ground truth a factor audit (MIG, SAP, DCI, and which factor each latent carries). Image quality: Fréchet and kernel
    distance to the data, path length. `--protocol quick`, the default, takes a minute or two a tiny run on one
    core; `--protocol published` takes the numbers of images that papers report. Values are kept in each run's
    measures.json as they come, and found again; a number of 0, as in --protocol.predictability-pairs 0, leaves a
    measure out.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Runs that `train` or `rotate` made."""
    data: Path | None = None
    """Real images; default the data set that the first run was trained on."""
    out: Path | None = None
    """Write all values to this JSON file too."""
    protocol: MeasureProtocol = field(default_factory=MeasureProtocol)
    """Numbers of samples."""

    def run(self) -> None:
        """Measure and print."""
        if not self.runs:
            raise UserError("Name at least one run to evaluate.")
        runs = [RunFolder.open(path) for path in self.runs]
        evaluator = evaluator_of(runs, self.protocol, self.data)
        with progress_bar("measuring runs") as update:
            found = measure_runs(runs, evaluator, progress=update)
        records = {name: measures.record() for name, measures in found.items()}
        if self.out is not None:
            write_json(self.out, records)
        print_measures(records, evaluator)


def evaluator_of(runs: Sequence[RunFolder], protocol: MeasureProtocol, data: Path | None) -> Evaluator:
    """For runs of one resolution: against the data set given, or the one that the first of them was trained on."""
    resolution = generator_config(runs[0]).resolution
    if data:
        return Evaluator(protocol, ImageDataset(data), resolution)
    try:
        return Evaluator(protocol, data_of(runs[0]), resolution)
    except UserError as error:
        print(f"No distance to the data: {error}. Give the data set by --data.", file=sys.stderr)
        return Evaluator(protocol, None, resolution, why_no_data="its data set was not found")


def print_measures(records: Mapping[str, Mapping[str, Any]], evaluator: Evaluator) -> None:
    """A row a measure, a column a run; then what each latent carries, and what to know before values are quoted."""
    rows = known_rows(records.values())
    values = {name: [value_of(record, row.key) for row in rows] for name, record in records.items()}
    columns = {
        name: [Text("–" if value is None else row.show(value)) for row, value in zip(rows, column, strict=True)]
        for name, column in values.items()
    }
    print_models([row.label_in(records.values()) + row.arrow for row in rows], columns)
    for line in notes(records, evaluator):
        print(line)


def notes(records: Mapping[str, Mapping[str, Any]], evaluator: Evaluator) -> list[str]:
    """Which factor each latent carries, how good the probe is that says so, the protocol, whether images are few."""
    lines, probe = [], ""
    for name, record in records.items():
        if (audit := record.get("audit")) is not None:
            named = [f"z{index} = {what}" for index, what in enumerate(audit["latent_names"]) if what]
            lines.append(f"{name}: {', '.join(named) or 'no latent carries one factor'}")
            scores = zip(audit["factors"], audit["probe_scores"], strict=True)
            probe = ", ".join(f"{factor} {score:.3f}" for factor, score in scores)
    if probe:
        lines.append(f"The probe behind the factor audit, on held-out real images: {probe}.")
    protocol = evaluator.protocol
    lines.append(f"Protocol {protocol}; seed {protocol.seed}.")
    if any(record.get("frechet") is not None for record in records.values()):
        note = few_images_note(evaluator.tools.compared_images, evaluator.tools.num_features)
        lines += [note] if note else []
    return lines


def parse(arguments: Sequence[str]) -> Command:
    """The command from its words."""
    protocol, rest = split_protocol(arguments)
    return tyro.cli(
        Command, args=rest, default=Command((), protocol=protocol), prog="hessian-penalty evaluate [--protocol NAME]"
    )
