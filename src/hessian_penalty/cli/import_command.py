"""`hessian-penalty import`: make a data set from anyone's pictures."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.folder_import import import_images


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def _describe(summary: dict[str, Any]) -> Iterator[str]:
    smallest, largest = ("x".join(map(str, summary[key])) for key in ("smallest", "largest"))
    yield f"found: {smallest} to {largest} pixels; modes: {_counts(summary['modes'])}"
    done = {
        "cropped": "cut to the middle square",
        "upscaled": "smaller than --size, enlarged (blurred)",
        "rotated": "turned upright",
        "flattened": "transparent, laid on white",
    }
    for key, text in done.items():
        if summary[key]:
            yield f"{text}: {summary[key]:,}"
    if summary["unreadable_count"]:
        shown = ", ".join(summary["unreadable"])
        dots = ", …" if summary["unreadable_count"] > len(summary["unreadable"]) else ""
        yield f"left out as unreadable: {summary['unreadable_count']:,} ({shown}{dots})"
    if summary["ignored"]:
        yield f"other files, ignored: {_counts(summary['ignored'])}"


@dataclass
class Command:
    """Make a data set from your own pictures, in a folder (with its subfolders) or in a zip file.

    Pictures of any size and colour mode become RGB squares of one size: turned upright, cut to the middle square,
    resized with a Lanczos filter, laid on white where transparent. PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, TGA and JPEG
    2000 are read; other files are ignored and counted. Your pictures are only read, never changed.

    A core converts several hundred pictures of 200 pixels a second, or three or four of 12 megapixels. Where pictures
    cannot be read the command names them and makes nothing, unless --skip-unreadable is given.

    Example: hessian-penalty import photos.zip --size 64 --out datasets/photos
    """

    source: Annotated[
        tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE", help="Folder of pictures, or a .zip file of them.")
    ]
    size: int = 64
    """Height and width in pixels: a power of two from 4 to 1024. Training shrinks by powers of two as it needs."""
    out: Path | None = None
    """Folder to make; it must not exist. Default: datasets/ and the source's name."""
    skip_unreadable: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave out pictures that cannot be read, and count them."""

    def run(self) -> None:
        """Import, and say what was found and done, how fast it went and what to type next."""
        out = self.out or Path("datasets") / (self.source.resolve().stem or "import")
        start = time.monotonic()
        with progress_bar(f"import {self.source.name}") as update:
            dataset = import_images(self.source, self.size, out, skip_unreadable=self.skip_unreadable, progress=update)
        seconds = time.monotonic() - start
        for line in _describe(dataset.metadata["summary"]):
            print(line)
        rate, resolution = len(dataset) / seconds, dataset.resolution
        print(f"{out}: {len(dataset):,} pictures of {resolution}x{resolution}, {seconds:.1f} s ({rate:.1f} pictures/s)")
        run = shlex.quote(f"runs/{out.name}")
        print(f"Next: hessian-penalty train clevr-simple-tiny --data {shlex.quote(str(out))} --out {run}")
