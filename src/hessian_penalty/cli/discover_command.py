"""`hessian-penalty discover`."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.method_options import gathered, parse_method, settings_help
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import METHODS
from hessian_penalty.errors import LARGEST_SEED, check_number
from hessian_penalty.generators.sources import SOURCES, open_generator
from hessian_penalty.metrics.activeness import effective_latents
from hessian_penalty.studies.discovery import discover_into


@dataclass
class Command:
    """Find interpretable directions in any frozen generator; write them with pictures, videos and a page.

    A search that was interrupted goes on when the same command is repeated.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GENERATOR", help=SOURCES)]
    out: Path
    """Folder of what is found; must not hold directions yet."""
    method: Annotated[str, tyro.conf.arg(help=f"One of {', '.join(METHODS)}.")] = "hessian"
    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE", help=f"Of the method. {settings_help()}.")
    ] = ()
    count: int | None = None
    """Keep the most active directions only; all by default."""
    subspace: str | None = None
    """Search there only: a name that the generator knows (BigGAN: coarse, mid, fine), or components, as 0:40."""
    latent_dim: int | None = None
    """Number of latents, for a generator that does not say it."""
    labels: str | None = None
    """For a generator with classes: a class number, or "random"."""
    device: str = "cpu"
    """Where the generator runs."""
    seed: int = 0
    """Of the search and of the pictures."""
    videos: int = 12
    """How many directions are shown in pictures and videos, the most active first; 0 makes none."""
    extent: float = 3.0
    """How far pictures and videos go along a direction, to both sides."""

    def run(self) -> None:
        """Search, write, print."""
        check_number("--seed", self.seed, 0, LARGEST_SEED)
        check_number("--videos", self.videos, 0)
        check_number("--extent", self.extent, 1e-6)
        method = parse_method(self.method, self.settings)
        generator = open_generator(self.source, latent_dim=self.latent_dim, device=self.device)
        start = time.monotonic()
        directions = discover_into(
            self.out,
            generator,
            method=method,
            count=self.count,
            subspace=parse_subspace(self.subspace),
            seed=self.seed,
            shown=self.videos,
            extent=self.extent,
            source=self.source,
            conditions=parse_labels(self.labels),
            command=command_line(),
            progress_of=progress_bar,
        )
        print(summary(directions))
        print(f"{(self.out / 'report.html').resolve()}: open it in a browser. {time.monotonic() - start:.0f} s in all.")


def parse(arguments: Sequence[str]) -> Command:
    """The command from its words; `--set` may be given several times."""
    return tyro.cli(Command, args=gathered(arguments), prog="hessian-penalty discover")


def parse_subspace(text: str | None) -> Any:
    """Return a name as it is, and "0:40" as a slice.

    >>> parse_subspace("0:40"), parse_subspace("coarse")
    (slice(0, 40, None), 'coarse')
    """
    found = re.fullmatch(r"([0-9]*):([0-9]*)", text or "")
    return slice(*(int(part) if part else None for part in found.groups())) if found else text


def parse_labels(text: str | None) -> dict[str, Any]:
    """Return the condition for a generator: a class number, or the word that draws classes.

    >>> parse_labels("207"), parse_labels("random"), parse_labels(None)
    ({'labels': 207}, {'labels': 'random'}, {})
    """
    if text is None:
        return {}
    return {"labels": int(text) if re.fullmatch(r"-?[0-9]+", text) else text}


def summary(directions: Directions) -> str:
    """Return what was found, in a few lines."""
    assert directions.activeness is not None  # discover measures it
    active = directions.activeness.double()
    lines = [f"{len(directions)} directions, the most active first: {'  '.join(f'{a:.4f}' for a in active[:12])}"]
    if len(directions) > 12:
        lines[-1] += "  …"
    lines.append(f"effective latents: {effective_latents(torch.as_tensor(active)):.1f}")
    penalties = directions.provenance.get("held_out_penalties")
    if penalties:
        lines.append(f"held-out penalty, relative to before: {min(penalties):.3f}")
    return "\n".join(lines)
