"""`hessian-penalty demo`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Column, Table

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.studies.demo import Demo, DemoConfig


@dataclass
class Command:
    """The main job, small: rotate two shipped generators, train one on with the Hessian Penalty, and see it.

    Four to six minutes on two CPU cores, no GPU, no network. Ends with OUT/report.html, which puts the vanilla, rotated
    and fine-tuned generators side by side, and OUT/summary.json with their figures. An interrupted demo goes on where
    it stopped when the command is repeated.
    """

    demo: Annotated[DemoConfig, tyro.conf.arg(name="")] = field(default_factory=DemoConfig)
    """Settings."""
    out: Path = Path("runs/demo")
    """Where everything goes."""
    quick: bool = False
    """Only show that every step runs, in under a minute: the figures mean nothing then."""

    def run(self) -> None:
        """Run the demo and print its table."""
        config = self.demo.quick() if self.quick else self.demo
        summary = Demo(config, self.out, progress_bar).run(command_line())
        table = Table(
            "data", Column("model", no_wrap=True), "effective latents ↓", "off-diagonal share ↓", "Fréchet distance ↓"
        )
        for group, models in summary.items():
            if group != "seconds":
                for name, m in models.items():
                    figures = f"{m['effective_latents']:.2f}", f"{m['off_diagonal_share']:.3f}", f"{m['frechet']:.2f}"
                    table.add_row(group, name, *figures)
        Console().print(table)
        print(
            f"Done in {summary['seconds'] / 60:.1f} minutes. Open {(self.out / 'report.html').resolve()} in a browser."
        )
