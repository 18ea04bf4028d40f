"""`hessian-penalty render`: make a CLEVR-like data set."""

import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.clevr import FAMILIES
from hessian_penalty.data.partial_folder import partial_path
from hessian_penalty.data.render import render_dataset

_NAMES = "; ".join(f"{name}: {family.description}" for name, family in FAMILIES.items())


@dataclass
class Command:
    """Make a CLEVR-like data set: pictures of one or two objects on a grey ground, and the factors behind each.

    The folder holds images.npy (pictures), factors.npz (ground truth: position, hue, shape, size) and dataset.json
    (how it was made). The same name, count, size and seed give the same bytes on any number of cores.

    A core renders about six pictures a second at 64 pixels, a quarter of that at 128: 10,000 pictures at 64 pixels take
    about 15 minutes on two cores. Interrupt it with Ctrl-C whenever you like; the same command goes on from there.

    Example: hessian-penalty render clevr-simple --count 1000 --size 32
    """

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help=f"Data set. {_NAMES}.")]
    count: int = 10_000
    """Number of pictures."""
    size: int = 64
    """Height and width in pixels: a power of two from 4 to 1024. Training shrinks by powers of two as it needs."""
    out: Path | None = None
    """Folder to make; it must not exist. Default: datasets/NAME."""
    seed: int = 0
    """Draws the factors and the rendering's noise."""
    workers: int | None = None
    """Processes. Default: one for each core."""

    def run(self) -> None:
        """Render, and say where the data set is, how fast it went and what to type next."""
        out = self.out or Path("datasets") / self.name
        start, earlier = time.monotonic(), None
        try:
            with progress_bar(f"render {self.name}") as update:

                def report(done: int, total: int) -> None:
                    nonlocal earlier
                    if earlier is None:
                        earlier = done
                        if done:
                            print(f"Going on in {partial_path(out)}, where {done:,} of {total:,} pictures are done.")
                    update(done, total)

                dataset = render_dataset(
                    self.name, self.count, self.size, out, seed=self.seed, workers=self.workers, progress=report
                )
        except KeyboardInterrupt:
            if partial_path(out).exists():
                print(f"\nFinished pictures are kept in {partial_path(out)}; the same command goes on from there.")
            raise
        seconds = time.monotonic() - start
        rate = (len(dataset) - (earlier or 0)) / seconds
        resolution = dataset.resolution
        print(f"{out}: {len(dataset):,} pictures of {resolution}x{resolution}, {seconds:.1f} s ({rate:.1f} pictures/s)")
        run = shlex.quote(f"runs/{self.name}")
        print(f"Next: hessian-penalty train {self.name}-tiny --data {shlex.quote(str(out))} --out {run}")
