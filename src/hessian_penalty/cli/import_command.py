"""`hessian-penalty import`: make a data set from anyone's pictures, or from a published file."""

import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.download import check_sha256, download, is_url, url_name
from hessian_penalty.data.dsprites import import_dsprites
from hessian_penalty.data.folder_import import import_images
from hessian_penalty.data.image_dataset import ImageDataset, sha256
from hessian_penalty.data.pairs_import import import_pairs
from hessian_penalty.data.partial_folder import check_target
from hessian_penalty.data.shapes3d import import_shapes3d
from hessian_penalty.errors import UserError

# kind → the training command that suits it
_NEXT = {
    "pictures": "clevr-simple-tiny",
    "pairs": "edges-and-shoes-tiny",
    "dsprites": "clevr-simple-tiny --generator.image-channels 1",
    "shapes3d": "clevr-simple-tiny",
}


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
    """Make a data set from your own pictures, or from a published file.

    --kind pictures: a folder (with its subfolders), a .zip, .tar or .tar.gz file, or a URL of one. Pictures of any size
    and colour mode become RGB squares of one size: turned upright, cut to the middle square, resized with a Lanczos
    filter, laid on white where transparent. PNG, JPEG, WebP, TIFF, BMP, GIF, PPM, TGA and JPEG 2000 are read; other
    files are ignored and counted. Your pictures are only read, never changed, and archives are not unpacked.

    --kind pairs: the same, of pictures twice as wide as high, edges on the left, the photo on the right, such as
    edges2shoes.tar.gz (http://efrosgans.eecs.berkeley.edu/pix2pix/datasets/edges2shoes.tar.gz, 2 GB). Both halves go
    into one unpaired set, so that N pairs become 2N pictures; the factor "domain" says which half each was.

    --kind dsprites: dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz, 737,280 grey pictures of 64 pixels and five
    factors. --kind shapes3d: 3dshapes.h5, 480,000 pictures of 64 pixels and six factors, read with h5py (pip install
    'hessian-penalty[hdf5]'). --count takes a random subset of either.

    A core converts several hundred pictures of 200 pixels a second, or three or four of 12 megapixels. Where pictures
    cannot be read the command names them and makes nothing, unless --skip-unreadable is given.

    Example: hessian-penalty import photos.zip --size 64 --out datasets/photos
    Example: hessian-penalty import edges2shoes.tar.gz --kind pairs --size 128
    """

    source: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(
            metavar="SOURCE",
            help="Folder, archive or published file, as --kind says; or its http(s) URL. That is fetched beside --out, "
            "goes on where it broke off, and stays there.",
        ),
    ]
    kind: Literal["pictures", "pairs", "dsprites", "shapes3d"] = "pictures"
    """What SOURCE is."""
    size: int = 64
    """Height and width in pixels: a power of two from 4 to 1024, at most 64 for dsprites and shapes3d. Training shrinks
    by powers of two as it needs."""
    out: Path | None = None
    """Folder to make; it must not exist. Default: datasets/ and the source's name, or dsprites or shapes3d."""
    skip_unreadable: tyro.conf.FlagCreatePairsOff[bool] = False
    """Leave out pictures that cannot be read, and count them (pictures and pairs)."""
    count: int | None = None
    """Random subset of so many pictures (dsprites and shapes3d). Default: all."""
    seed: int | None = None
    """Draws that subset. Default: 0."""
    sha256: str | None = None
    """Checksum that the file must have; it is refused otherwise. The command prints it for what it downloads."""

    def run(self) -> None:
        """Import, and say what was found and done, how fast it went and what to type next."""
        out = self.out or Path("datasets") / self._name()
        self._check_options()
        source = self._fetch(out) if is_url(self.source) else Path(self.source)
        if self.sha256 is not None:
            check_sha256(source, self.sha256)
        start = time.monotonic()
        dataset = self._import(source, out)
        seconds = time.monotonic() - start
        if "summary" in dataset.metadata:
            for line in _describe(dataset.metadata["summary"]):
                print(line)
        rate, resolution = len(dataset) / seconds, dataset.resolution
        print(f"{out}: {len(dataset):,} pictures of {resolution}x{resolution}, {seconds:.1f} s ({rate:.1f} pictures/s)")
        run = shlex.quote(f"runs/{out.name}")
        print(f"Next: hessian-penalty train {_NEXT[self.kind]} --data {shlex.quote(str(out))} --out {run}")

    def _name(self) -> str:
        if self.kind in ("dsprites", "shapes3d"):
            return self.kind
        name = Path(url_name(self.source)) if is_url(self.source) else Path(self.source).resolve()
        return name.stem.removesuffix(".tar") or "import"

    def _check_options(self) -> None:
        pictures = self.kind in ("pictures", "pairs")
        misplaced = {
            "--count": pictures and self.count is not None,
            "--seed": pictures and self.seed is not None,
            "--skip-unreadable": not pictures and self.skip_unreadable,
        }
        for flag, wrong in misplaced.items():
            if wrong:
                raise UserError(f"{flag} does nothing for --kind {self.kind}. Leave it out.")

    def _fetch(self, out: Path) -> Path:
        check_target(out, self.size)  # before the long download
        folder = out.parent
        there = (folder / url_name(self.source)).exists()
        with progress_bar(f"download {url_name(self.source)}") as update:
            path = download(
                self.source, folder, lambda done, total: update(round(done / 1e6, 1), round(total / 1e6, 1), "MB")
            )
        print(f"{path}: {'there already, not fetched again' if there else 'fetched'}; --sha256 {sha256(path)}")
        return path

    def _import(self, source: Path, out: Path) -> ImageDataset:
        with progress_bar(f"import {source.name}") as update:
            if self.kind in ("pictures", "pairs"):
                convert = import_images if self.kind == "pictures" else import_pairs
                return convert(source, self.size, out, skip_unreadable=self.skip_unreadable, progress=update)
            read = import_dsprites if self.kind == "dsprites" else import_shapes3d
            return read(source, self.size, out, count=self.count, seed=self.seed or 0, progress=update)
