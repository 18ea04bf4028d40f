"""`hessian-penalty report`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Column, Table

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.metrics.measures import MeasureProtocol
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.comparison import write_comparison
from hessian_penalty.studies.evaluation import Evaluator, data_of


@dataclass
class Command:
    """Measure runs and put them side by side in one self-contained HTML page that needs no network.

    Samples, a traversal row for each latent with its activeness, a looping video, the Hessian, and a table: effective
    latents, off-diagonal share, Fréchet distance. Measures are kept in each run's measures.json.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Runs that `train` or `rotate` made; the first is what the others are compared with."""
    out: Path = Path("report.html")
    """The page."""
    data: Path | None = None
    """Real images for the Fréchet distance; default the data set that the first run was trained on."""
    protocol: MeasureProtocol = field(default_factory=MeasureProtocol)
    """Numbers of samples."""

    def run(self) -> None:
        """Measure and write."""
        if self.out.is_dir():
            raise UserError(f"{self.out} is a folder: name the page, as --out {self.out / 'report.html'}.")
        if not self.runs:
            raise UserError("Name at least one run to report.")
        runs = [RunFolder.open(path) for path in self.runs]
        dataset, why_no_data = self._data(runs[0])
        resolution = load_generator(runs[0]).resolution
        evaluator = Evaluator(self.protocol, dataset, resolution, why_no_data=why_no_data)
        with progress_bar("measuring runs") as update:
            entries = write_comparison(runs, evaluator, self.out, command=command_line(), progress=update)
        table = Table(Column("run", no_wrap=True), "effective latents", "off-diagonal share", "Fréchet distance")
        for entry in entries:
            frechet = entry.measures["frechet"]
            table.add_row(
                entry.name,
                f"{entry.measures['effective_latents']:.2f}",
                f"{entry.measures['off_diagonal_share']:.3f}",
                "–" if frechet is None else f"{frechet:.2f}",
            )
        Console().print(table)
        print(f"{self.out.resolve()}: open it in a browser.")

    def _data(self, first: RunFolder) -> tuple[ImageDataset | None, str]:
        if self.data:
            return ImageDataset(self.data), ""
        try:
            return data_of(first), ""
        except UserError as error:
            print(f"No Fréchet distance: {error}. Give the data set by --data.", file=sys.stderr)
            return None, "its data set was not found"
