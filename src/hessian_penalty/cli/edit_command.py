"""`hessian-penalty edit`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from hessian_penalty.cli.discover_command import parse_labels
from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.generators.sources import SOURCES, open_generator
from hessian_penalty.reports.direction_sheet import edit_sheet


@dataclass
class Command:
    """Edit pictures along one direction: a sheet with a row for each picture, from the original to each amount."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GENERATOR", help=SOURCES)]
    directions: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTIONS")]
    """What `discover` or `rotate` wrote (directions.safetensors), or a published matrix (.pt)."""
    index: int = 0
    """Number of the direction; 0 is the most active one."""
    amounts: tuple[float, ...] = (-3.0, -1.5, 1.5, 3.0)
    """How far to go, one a column; latents have standard deviation 1."""
    samples: int = 4
    """How many pictures."""
    out: Path = Path("edit.png")
    """The sheet."""
    latent_dim: int | None = None
    """Number of latents, for a generator that does not say it."""
    labels: str | None = None
    """For a generator with classes: a class number, or "random"."""
    device: str = "cpu"
    """Where the generator runs."""
    seed: int = 0
    """Of the pictures: the same seed edits the same ones."""

    def run(self) -> None:
        """Edit and write."""
        check_number("--seed", self.seed, 0, LARGEST_SEED)
        check_number("--samples", self.samples, 1)
        if self.out.suffix != ".png":
            raise UserError(f"--out must name a .png file, got {self.out}.")
        directions = Directions.load(self.directions)
        check_number("--index", self.index, 0, len(directions) - 1)
        generator = open_generator(self.source, latent_dim=self.latent_dim, device=self.device)
        edit_sheet(
            generator,
            directions,
            self.out,
            self.index,
            self.amounts,
            samples=self.samples,
            rng=torch.Generator().manual_seed(self.seed),
            **parse_labels(self.labels),
        )
        print(f"{self.out.resolve()}: {self.samples} pictures along direction {self.index}.")
