"""`hessian-penalty prune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hessian_penalty.cli.rotate_command import describe
from hessian_penalty.errors import LARGEST_SEED, check_number
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.pruning import prune_run


@dataclass
class Command:
    """Take the latents that do nothing out of a run: a smaller generator, and what that changes in its images.

    The penalty, and a rotation, gather what a model does in few latents. The new run is one like any other; its latents
    keep the order that they had. Optimisers are left out: training on begins with new ones.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run that `train` or `rotate` made."""
    out: Path
    """Folder of the smaller run; must not exist."""
    below: float = 0.05
    """Latents go whose activeness is less than this part of the most active one's."""
    seed: int = 0
    """Of the latents at which all is measured."""

    def run(self) -> None:
        """Measure, leave out, write."""
        check_number("--below", self.below, 0, 1)
        check_number("--seed", self.seed, 0, LARGEST_SEED)
        kept, change, active = prune_run(RunFolder.open(self.source), self.out, below=self.below, seed=self.seed)
        latents = kept.provenance["latents"]
        for index, value in enumerate(active.tolist()):
            now = f"z{latents.index(index)}" if index in latents else "left out"
            print(f"z{index:<3} activeness {value:.5f}  {now}")
        print(f"{self.out}: {len(latents)} of {len(active)} latents.")
        print(describe(change))
        print(f"Next: hessian-penalty report {self.source} {self.out} --out report.html")
