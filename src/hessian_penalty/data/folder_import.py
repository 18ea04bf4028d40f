"""Anyone's pictures as a data set: files of any sizes and modes become RGB squares of one size."""

import io
import os
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.data.partial_folder import Progress, check_target, create_array, fresh_partial, publish
from hessian_penalty.data.picture_source import PictureSource, open_source
from hessian_penalty.errors import UserError

# Pillow's other decoders stay shut: EPS, for one, hands the file to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
NAMES_SHOWN = 10

Box = tuple[int, int, int, int]  # left, top, right, bottom
Cut = Callable[[int, int], list[Box]]  # width and height → the squares to take


@dataclass
class ImportSummary:
    """What was found and what was done to it; `dataset.json` keeps it as "summary".

    Args:
        pictures: that came in; two images of the data set each where they are pairs.
        modes: Pillow's name of a colour mode → how many pictures had it.
        smallest: (width, height) of the picture with the fewest pixels, upright.
        largest: (width, height) of the one with the most.
        rotated: turned upright as their EXIF data ask.
        flattened: transparent, laid on white.
        cropped: not square, cut to the middle.
        upscaled: smaller than the data set's size, hence blurred.
        unreadable_count: pictures that could not be read and were left out.
        unreadable: name → reason, of the first ten of these.
        ignored: suffix → how many files were no pictures.
    """

    pictures: int = 0
    modes: dict[str, int] = field(default_factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    rotated: int = 0
    flattened: int = 0
    cropped: int = 0
    upscaled: int = 0
    unreadable_count: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    try:
        turned = image.getexif().get(0x0112, 1) in range(2, 9)
    except Exception:  # damaged EXIF data do not spoil the pixels
        return image, False
    return (ImageOps.exif_transpose(image), True) if turned else (image, False)


def _rgb(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture in RGB, and whether something transparent was laid on white."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"values from {values.min()} to {values.max()}, expected 8 or 16 bits")
        return Image.fromarray((values / 257 + 0.5).astype(np.uint8)).convert("RGB"), False
    if image.mode == "F":
        raise ValueError("floating-point values, expected 8 or 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB"), rgba.getchannel("A").getextrema() != (255, 255)
    return image.convert("RGB"), False


def _tiles(data: bytes, size: int, cut: Cut, summary: ImportSummary) -> NDArray[np.uint8]:
    """What is cut from one picture as (tiles, size, size, 3), counted in `summary` once all went well."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        mode = image.mode
        upright, rotated = _upright(image)
        width, height = upright.size
        boxes = cut(width, height)
        tiles, flattened = zip(*(_rgb(upright.crop(box)) for box in boxes), strict=True)
        pixels = np.stack([np.asarray(tile.resize((size, size), Image.Resampling.LANCZOS)) for tile in tiles])
    summary.pictures += 1
    summary.modes[mode] = summary.modes.get(mode, 0) + 1
    seen = [(width, height), *filter(None, (summary.smallest, summary.largest))]
    summary.smallest = min(seen, key=lambda shape: (shape[0] * shape[1], shape))
    summary.largest = max(seen, key=lambda shape: (shape[0] * shape[1], shape))
    summary.rotated += rotated
    summary.flattened += any(flattened)
    summary.cropped += sum(tile.width * tile.height for tile in tiles) < width * height
    summary.upscaled += tiles[0].height < size
    return pixels  # (tiles, H, W, C)


def _convert(
    source: PictureSource, size: int, cut: Cut, images: NDArray[Any], progress: Progress | None
) -> tuple[ImportSummary, list[int]]:
    """Fill `images` by the order of the names; also returns the places of the pictures that cannot be read."""
    summary = ImportSummary(ignored=source.ignored)
    places = {name: place for place, name in enumerate(source.names)}
    reasons: dict[str, str] = {}
    for number, (name, read) in enumerate(source.read_all(), start=1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of pictures that are merely large
                images[places[name]] = _tiles(read(), size, cut, summary)
        except Exception as error:  # decoders fail in many ways; each means that this file cannot be read
            known = not isinstance(error, UnidentifiedImageError)
            reasons[name] = (str(error) or type(error).__name__) if known else "not a known picture format"
        if progress:
            progress(number, len(source.names))
    summary.modes = dict(sorted(summary.modes.items()))
    summary.unreadable_count = len(reasons)
    summary.unreadable = dict(sorted(reasons.items())[:NAMES_SHOWN])
    return summary, [places[name] for name in reasons]


def _drop(path: Path, places: list[int]) -> None:
    """Keep the pictures of the array at `path` that are not at `places`."""
    whole = np.lib.format.open_memmap(path, mode="r")
    rows = np.delete(np.arange(len(whole)), places)
    kept = create_array(path.with_name("kept.npy"), np.uint8, (len(rows), *whole.shape[1:]))
    for start in range(0, len(rows), 256):  # bounded memory
        kept[start : start + 256] = whole[rows[start : start + 256]]
    os.replace(path.with_name("kept.npy"), path)


def _check_unreadable(source: Path, summary: ImportSummary, skip_unreadable: bool) -> None:
    if summary.unreadable_count == 0 or (skip_unreadable and summary.pictures):
        return
    listed = "".join(f"\n  {name}: {reason}" for name, reason in summary.unreadable.items())
    more = summary.unreadable_count - len(summary.unreadable)
    listed += f"\n  and {more} more" if more else ""
    total = summary.unreadable_count + summary.pictures
    remedy = "Mend or remove them, or pass --skip-unreadable to go on without them."
    raise UserError(
        f"{summary.unreadable_count} of the {total} pictures in {source} cannot be read:{listed}\n"
        f"{remedy if summary.pictures else 'Nothing would be left without them.'}"
    )


def import_tiles(
    source: Path,
    size: int,
    out: Path,
    kind: str,
    cut: Cut,
    factors: Callable[[int], list[Factor]],
    skip_unreadable: bool,
    progress: Progress | None,
) -> ImageDataset:
    """Make the data set `out` of what `cut` takes from each picture, the same number of squares from every one.

    `factors` is asked for the ground truth of so many images. The rest is as `import_images` says.

    Raises:
        UserError: as there.
    """
    if source.exists() and out.exists() and out.samefile(source):
        raise UserError(f"{out} holds the pictures themselves. Choose another --out.")
    check_target(out, size)
    tiles = len(cut(2, 1))
    with open_source(source) as found:
        recipe = {"name": "import", "kind": kind, "source": str(source), "size": size}
        with fresh_partial(out, recipe) as folder:
            images = create_array(folder / "images.npy", np.uint8, (len(found.names) * tiles, size, size, 3))
            summary, bad = _convert(found, size, cut, images.reshape(-1, tiles, size, size, 3), progress)
            _check_unreadable(source, summary, skip_unreadable)
            del images
            if bad:
                _drop(folder / "images.npy", [place * tiles + tile for place in bad for tile in range(tiles)])
            described = {**recipe, "summary": asdict(summary)}
            return publish(folder, out, factors(summary.pictures * tiles), described)


def _middle_square(width: int, height: int) -> list[Box]:
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return [(left, top, left + side, top + side)]


def import_images(
    source: str | Path,
    size: int,
    out: str | Path,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> ImageDataset:
    """Make the data set `out` of the pictures in a folder (with its subfolders), a zip file or a tar archive.

    Each is turned upright as its EXIF data ask, cut to its middle square, laid on white where it is transparent,
    converted to 8-bit RGB and resized to `size` with a Lanczos filter. Of an animation the first frame is taken. The
    order is that of the names. Hidden files, other files and links to folders are left aside. What was found and done
    is kept in `dataset.json`: `dataset.metadata["summary"]`, the fields of `ImportSummary`. The source is only read;
    after an error or an interruption no `out` is there.

    Args:
        source: folder, or a .zip, .tar, .tar.gz or .tgz file.
        size: pixels, a power of two from 4 to 1024; smaller pictures are enlarged, and counted.
        skip_unreadable: leave pictures out that cannot be read, instead of refusing.
        progress: told (pictures done, pictures in all).

    Raises:
        UserError: bad size, `out` exists, no room on the disk, `source` is missing, damaged or holds no pictures, or
            some cannot be read (all are tried, the first ten named).
    """
    return import_tiles(
        Path(source), size, Path(out), "pictures", _middle_square, lambda count: [], skip_unreadable, progress
    )
