"""`hessian-penalty figures`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.figure_models import FigureSettings
from hessian_penalty.studies.figures import write_figures


@dataclass
class Command:
    """Draw the figures of papers and talks as files: PNG and SVG, each for a light and for a dark ground.

    Samples, traversals still and in motion, activeness, mean Hessians, Hessians of single pixels, the penalty of every
    pixel, training curves, and the factor map where `hessian-penalty evaluate` made an audit. Several runs stand side
    by side on shared scales. OUT/index.html shows all of them. About a minute a tiny run on one core.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Runs that `train` or `rotate` made."""
    out: Path = Path("figures")
    """Folder for the figures; those of the same name in it are replaced."""
    settings: Annotated[FigureSettings, tyro.conf.arg(name="")] = field(default_factory=FigureSettings)
    """Settings."""

    def run(self) -> None:
        """Draw and write."""
        runs = [RunFolder.open(path) for path in self.runs]
        with progress_bar("drawing figures") as update:
            written = write_figures(runs, self.out, self.settings, progress=update)
        for note in written.notes:
            print(note)
        print(f"{self.out}: {len(written.figures)} figures of {len(runs)} runs; open {written.index.resolve()}.")
