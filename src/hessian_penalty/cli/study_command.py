"""`hessian-penalty study`."""

import inspect
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.text import Text

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.model_tables import print_models
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.cli.protocol_options import split_protocol
from hessian_penalty.errors import UserError
from hessian_penalty.studies.arms import ARMS
from hessian_penalty.studies.study import Study, StudyConfig
from hessian_penalty.studies.study_report import write_results
from hessian_penalty.studies.study_table import StudyTable
from hessian_penalty.training.presets import PRESETS


@dataclass
class Command:
    """Train every method over several seeds on one data set, measure all, and write the table with mean and spread.

    `hessian-penalty study clevr-simple-tiny --seeds 3` trains a vanilla ProGAN, InfoGAN, OroJaR and the Hessian Penalty
    from scratch and by fine-tuning, rotates the vanilla one onto its directions, and fine-tunes a rotated one. All see
    equally many images. It takes an hour and a half on two cores. Interrupt it whenever you like: the same command goes
    on where it stopped, and one with more seeds adds to what is there.

    OUT holds table.md, results.json with every value, report.html with the models of seed 0, and a run folder for each
    model. A training that diverges is a result: the table counts it.
    """

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET", help=f"One of {', '.join(PRESETS)}.")]
    out: Path | None = None
    """Where everything goes. Default: runs/study-PRESET."""
    data: Path | None = None
    """The data set. The tiny CLEVR presets have the package's own pictures; the others need it."""
    workers: int | None = None
    """Models made at the same time, each in a process. Default: one for each core; 1 is best on a GPU."""
    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = field(default_factory=StudyConfig)
    """What is compared."""

    def run(self) -> None:
        """Train, measure, write."""
        if not self.preset:
            raise UserError(f"Name a preset: one of {', '.join(PRESETS)}.")
        out = self.out or Path("runs") / f"study-{self.preset}"
        study = Study(
            self.preset, self.study, out, data=self.data, workers=self.workers or os.cpu_count() or 1,
            stage=progress_bar,
        )  # fmt: skip
        study.make()
        study.measure()
        for table in write_results(study, command_line()):
            print_table(table)
        print(f"{out / 'table.md'}, {out / 'results.json'}; open {(out / 'report.html').resolve()} in a browser.")


def print_table(table: StudyTable) -> None:
    """A row a measure, a column a model; the best mean in bold."""
    best = {row: table.best(row) for row in table.rows}
    columns = {
        model: [Text(table.cell(model, row), "bold" if model in best[row] else "") for row in table.rows]
        for model in table.models
    }
    print_models([table.label(row) for row in table.rows], columns)


def parse(arguments: Sequence[str]) -> Command:
    """The command from its words."""
    protocol, rest = split_protocol(arguments)
    models = "\n".join(f"- {arm.name}: {arm.description}" for arm in ARMS.values() if arm.compared)
    return tyro.cli(
        Command,
        args=rest,
        default=Command("", study=StudyConfig(protocol=protocol)),
        prog="hessian-penalty study [--protocol NAME]",
        description=f"{inspect.getdoc(Command)}\n\nModels:\n{models}",
    )
