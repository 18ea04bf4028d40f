"""`hessian-penalty rotate`."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.errors import LARGEST_SEED, check_number
from hessian_penalty.metrics.activeness import effective_latents
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.rotation import rotate_run


@dataclass
class Command:
    """Turn a run's latents onto the directions that act independently: no training, no change of any image.

    Half a minute for a tiny model. The new run generates exactly the same distribution of images, but its latent 0 is
    the most active direction found, latent 1 the next; `train --finetune` and `report` take it like any run.
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run that `train` made."""
    out: Path
    """Where the rotated run goes; must not exist."""
    search: HessianSearch = field(default_factory=HessianSearch)
    """How the directions are searched for."""
    seed: int = 0
    """Seed of the search."""

    def run(self) -> None:
        """Search, fold, write."""
        check_number("--seed", self.seed, 0, LARGEST_SEED)
        start = time.monotonic()
        with progress_bar("searching directions") as update:
            directions = rotate_run(
                RunFolder.open(self.run_folder), self.out, method=self.search, seed=self.seed, progress=update
            )
        assert directions.activeness is not None  # discover measures it
        penalties = directions.provenance["held_out_penalties"]
        bars = "  ".join(f"{value:.4f}" for value in directions.activeness.tolist())
        print(
            f"{self.out}: {len(directions)} latents, rotated in {time.monotonic() - start:.0f} s\n"
            f"held-out penalty, relative to before: {min(penalties):.3f}\n"
            f"activeness: {bars}\n"
            f"effective latents: {effective_latents(directions.activeness.double()):.1f}\n"
            f"Next: hessian-penalty report {self.run_folder} {self.out} --out report.html"
        )
