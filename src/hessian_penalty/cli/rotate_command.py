"""`hessian-penalty rotate`."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from hessian_penalty.cli.discover_command import parse_labels, summary
from hessian_penalty.cli.method_options import gathered, parse_method, settings_help
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import METHODS, discover
from hessian_penalty.directions.reduction import ImageChange
from hessian_penalty.directions.rotation import rotation_is_free
from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.generators.sources import SOURCES, open_generator
from hessian_penalty.runs import RunFolder, require_new
from hessian_penalty.studies.rotation import require_keep, require_method, rotate_into, rotate_run

Turned = tuple[Directions, ImageChange | None, str]  # what was found, what it changes, what to do next


@dataclass
class Command:
    """Turn a generator's latents onto the directions that act independently: no training, no change of any image.

    A run becomes a run (half a minute for a tiny model): it generates exactly the same distribution of images, but its
    latent 0 is the most active direction found, latent 1 the next; `train --finetune` and `report` take it like any
    run. Of any other generator the directions are written, and the turned weights where one layer reads the latents.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="GENERATOR", help=SOURCES)]
    out: Path
    """Where the turned run, or the folder with directions and weights, goes; must not exist."""
    directions: Path | None = None
    """Directions to turn onto, as `discover` wrote them; they are searched for by default."""
    method: Annotated[str, tyro.conf.arg(help=f"Of the search: one of {', '.join(METHODS)}.")] = "hessian"
    settings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="set", metavar="NAME=VALUE", help=f"Of the method. {settings_help()}.")
    ] = ()
    keep: int | None = None
    """Keep only so many latents, the most active ones; what that changes in the images is told. All by default."""
    latent_dim: int | None = None
    """Number of latents, for a generator that does not say it."""
    labels: str | None = None
    """For a generator with classes: a class number, or "random"."""
    device: str = "cpu"
    """Where the generator runs."""
    seed: int = 0
    """Seed of the search."""

    def run(self) -> None:
        """Search, fold, write."""
        check_number("--seed", self.seed, 0, LARGEST_SEED)
        if self.directions is not None and (self.method != "hessian" or self.settings):
            raise UserError("--method and --set belong to a search; with --directions there is none, leave them out.")
        start = time.monotonic()
        directions = None if self.directions is None else Directions.load(self.directions)
        found, change, told = self._run(directions) if Path(self.source).is_dir() else self._any(directions)
        print(f"{self.out}: {self.keep or len(found)} latents, in {time.monotonic() - start:.0f} s")
        if found.activeness is not None:
            print(summary(found))
        if change is not None:
            print(describe(change))
        print(told.strip())

    def _run(self, directions: Directions | None) -> Turned:
        for name, given in (("--latent-dim", self.latent_dim), ("--labels", self.labels)):
            if given is not None:
                raise UserError(f"{name} is not for a run, which knows its latents and has no classes; leave it out.")
        if self.device != "cpu":
            raise UserError("--device is not for a run, which is turned on the CPU; leave it out.")
        method = parse_method(self.method, self.settings)
        with progress_bar("searching directions") as update:
            found, change = rotate_run(
                RunFolder.open(self.source), self.out, directions=directions, method=method, keep=self.keep,
                seed=self.seed, progress=update,
            )  # fmt: skip
        return found, change, f"Next: hessian-penalty report {self.source} {self.out} --out report.html"

    def _any(self, directions: Directions | None) -> Turned:
        method = parse_method(self.method, self.settings)
        require_new(self.out)
        G = open_generator(self.source, latent_dim=self.latent_dim, device=self.device)
        require_keep(self.keep, G.latent_dim)
        conditions, rng = parse_labels(self.labels), torch.Generator().manual_seed(self.seed)
        if directions is None:
            require_method(method)
            with progress_bar("searching directions") as update:
                directions = discover(G, method=method, rng=rng, progress=update, **conditions)
            directions.provenance.update(seed=self.seed, source=self.source, conditions=str(conditions))
        folded, change = rotate_into(self.out, G, directions, keep=self.keep, seed=self.seed, **conditions)
        lost = rotation_is_free(G, rng)
        call = "rotate_generator(G, {found})"
        if self.keep is not None:
            call = "drop_latents(G, {found}, {keep}, rng=torch.Generator())[0]"
        call = call.format(found=f'Directions.load("{self.out}/directions.safetensors")', keep=self.keep)
        told = (TO_LOAD if folded else TO_WRAP).format(out=self.out, call=call)
        return directions, change, f"Note: {lost}\n{told.strip()}" if lost else told


def parse(arguments: Sequence[str]) -> Command:
    """The command from its words; `--set` may be given several times."""
    return tyro.cli(Command, args=gathered(arguments), prog="hessian-penalty rotate")


TO_LOAD = """
generator.safetensors holds the weights of your module with its first layer turned: load_state_dict takes them (with
--keep: after you make the module with as many latents). {out}/directions.safetensors says what each latent is."""
TO_WRAP = """
The directions do not fit into one layer that reads the latents, so the turned generator is a wrapper:
    {call}"""


def describe(change: ImageChange) -> str:
    """Return what leaving latents out does to images."""
    return (
        f"Left out, the other latents are 0: images change by {change.mean:.4f} (root mean square, of [-1, 1]; worst "
        f"{change.worst:.4f}), {change.relative:.1%} of the distance of two random images."
    )
