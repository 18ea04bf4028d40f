"""`hessian-penalty report`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.evaluate_command import evaluator_of, print_measures
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.cli.protocol_options import split_protocol
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.comparison import write_comparison


@dataclass
class Command:
    """Measure runs and put them side by side in one self-contained HTML page that needs no network.

    Samples, a traversal row for each latent with its activeness, a looping video, the Hessian, which factor each latent
    carries, and all measures that `evaluate` takes, with the same flags; what it kept is not taken again.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Runs that `train` or `rotate` made; the first is what the others are compared with."""
    out: Path = Path("report.html")
    """The page."""
    data: Path | None = None
    """Real images; default the data set that the first run was trained on."""
    protocol: MeasureProtocol = field(default_factory=MeasureProtocol)
    """Numbers of samples; --protocol published takes those of papers."""

    def run(self) -> None:
        """Measure and write."""
        if self.out.is_dir():
            raise UserError(f"{self.out} is a folder: name the page, as --out {self.out / 'report.html'}.")
        if not self.runs:
            raise UserError("Name at least one run to report.")
        runs = [RunFolder.open(path) for path in self.runs]
        evaluator = evaluator_of(runs, self.protocol, self.data)
        with progress_bar("measuring runs") as update:
            entries = write_comparison(runs, evaluator, self.out, command=command_line(), progress=update)
        print_measures({entry.name: entry.measures for entry in entries}, evaluator)
        print(f"{self.out.resolve()}: open it in a browser.")


def parse(arguments: Sequence[str]) -> Command:
    """The command from its words."""
    protocol, rest = split_protocol(arguments)
    return tyro.cli(
        Command, args=rest, default=Command((), protocol=protocol), prog="hessian-penalty report [--protocol NAME]"
    )
