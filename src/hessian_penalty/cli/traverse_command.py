"""`hessian-penalty traverse`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from hessian_penalty.cli.discover_command import parse_labels
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import activeness_along
from hessian_penalty.directions.method import Space, require_conditions
from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.generators.sources import SOURCES, open_generator
from hessian_penalty.reports.direction_video import direction_video
from hessian_penalty.reports.traversals import by_activeness
from hessian_penalty.runs import require_new


@dataclass
class Command:
    """Film what each latent does: a row a latent, a column a picture, the latent swinging through its range and back.

    The video loops without a seam (H.264), as published: 12 rows, 8 columns, z from -2 to 2, 90 frames. Rows are the
    most active latents. Frames are made one at a time: a long video needs no more memory than a short one.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GENERATOR", help=SOURCES)]
    out: Path = Path("traversal.mp4")
    """The video; must not exist."""
    rows: int = 12
    """Latents shown, the most active first; their activeness stands beside them."""
    columns: int = 8
    """Pictures that each latent moves in."""
    extent: float = 2.0
    """Latents go from minus to plus this many standard deviations."""
    frames: int = 90
    """Of one way there and back."""
    fps: int = 30
    """Frames a second."""
    latent_dim: int | None = None
    """Number of latents, for a generator that does not say it."""
    labels: str | None = None
    """For a generator with classes: a class number, or "random"."""
    device: str = "cpu"
    """Where the generator runs."""
    batch_size: int = 64
    """Pictures a pass of the generator; bounds memory."""
    seed: int = 0
    """Of the pictures."""

    def run(self) -> None:
        """Measure activeness, film."""
        check_number("--seed", self.seed, 0, LARGEST_SEED)
        check_number("--rows", self.rows, 1)
        check_number("--columns", self.columns, 1)
        check_number("--batch-size", self.batch_size, 1)
        check_number("--extent", self.extent, 1e-6)
        check_number("--frames", self.frames, 2)
        check_number("--fps", self.fps, 1)
        if self.out.suffix != ".mp4":
            raise UserError(f"--out must name an .mp4 file, got {self.out}.")
        require_new(self.out)
        G = open_generator(self.source, latent_dim=self.latent_dim, device=self.device)
        conditions = parse_labels(self.labels)
        require_conditions(G, conditions)
        axes = torch.eye(G.latent_dim, dtype=torch.float64)
        active = activeness_along(Space(G, axes, conditions), axes, torch.Generator().manual_seed(self.seed))
        order = by_activeness(active.tolist(), self.rows)
        with progress_bar("filming") as update:
            direction_video(
                G, Directions(axes.float(), activeness=active.float()), self.out, order, samples=self.columns,
                frames=self.frames, fps=self.fps, extent=self.extent, rng=torch.Generator().manual_seed(self.seed),
                batch_size=self.batch_size, prefix="z", progress=update, **conditions,
            )  # fmt: skip
        print(f"{self.out.resolve()}: latents {', '.join(map(str, order))} in {self.columns} pictures.")
