"""Anyone's pictures as a data set: a folder or a zip file of any sizes and modes becomes RGB squares of one size."""

import io
import os
import shutil
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.data.partial_folder import Progress, check_target, claim_partial, create_array, publish
from hessian_penalty.errors import UserError

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
# Pillow's other decoders stay shut: EPS, for one, hands the file to Ghostscript.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MAX_FILE_BYTES = 2**30  # one picture's file, unpacked; Pillow has its own limit on pixels
NAMES_SHOWN = 10


@dataclass
class ImportSummary:
    """What was found and what was done to it; `dataset.json` keeps it as "summary".

    Args:
        pictures: in the data set.
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


@dataclass(frozen=True)
class _Source:
    names: list[str]  # of the pictures, sorted
    read: Callable[[str], bytes]
    ignored: dict[str, int]


def _sort_out(names: Iterator[PurePosixPath], read: Callable[[str], bytes]) -> _Source:
    pictures, ignored = set(), Counter[str]()
    for name in names:
        suffix = name.suffix.lower()
        if "__MACOSX" in name.parts or any(part.startswith(".") for part in name.parts):
            ignored["hidden"] += 1
        elif suffix in SUFFIXES:
            pictures.add(str(name))
        else:
            ignored[suffix or "no suffix"] += 1
    return _Source(sorted(pictures), read, dict(sorted(ignored.items())))


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be listed: {error.strerror}.")


def _open_folder(source: Path) -> _Source:
    def read(name: str) -> bytes:
        path = source / name
        if not path.is_file():  # a pipe would never end
            raise ValueError("a dangling link, or not a regular file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, more than {MAX_FILE_BYTES}")
        return path.read_bytes()

    files = (Path(parent, name) for parent, _, names in os.walk(source, onerror=_refuse) for name in names)
    return _sort_out((PurePosixPath(file.relative_to(source).as_posix()) for file in files), read)


def _open_archive(archive: zipfile.ZipFile) -> _Source:
    members = {str(PurePosixPath(m.filename)): m for m in archive.infolist() if not m.is_dir()}

    def read(name: str) -> bytes:
        if members[name].file_size > MAX_FILE_BYTES:
            raise ValueError(f"{members[name].file_size} bytes unpacked, more than {MAX_FILE_BYTES}")
        return archive.read(members[name])

    return _sort_out(map(PurePosixPath, members), read)


@contextmanager
def _open_source(source: Path) -> Iterator[_Source]:
    if source.is_dir():
        yield _open_folder(source)
        return
    if not source.exists():
        raise UserError(f"{source} does not exist. Give a folder of pictures or a .zip file.")
    try:
        archive = zipfile.ZipFile(source)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise UserError(
            f"{source} is no folder, and no readable zip file either ({error}). Give one of them."
        ) from None
    with archive:
        yield _open_archive(archive)


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


def _square(data: bytes, size: int, summary: ImportSummary) -> NDArray[np.uint8]:
    """One picture as (size, size, 3), counted in `summary` once all went well."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        mode = image.mode
        upright, rotated = _upright(image)
        width, height = upright.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        square, flattened = _rgb(upright.crop((left, top, left + side, top + side)))
        pixels = np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))
    summary.pictures += 1
    summary.modes[mode] = summary.modes.get(mode, 0) + 1
    if summary.smallest is None or width * height < summary.smallest[0] * summary.smallest[1]:
        summary.smallest = (width, height)
    if summary.largest is None or width * height > summary.largest[0] * summary.largest[1]:
        summary.largest = (width, height)
    summary.rotated += rotated
    summary.flattened += flattened
    summary.cropped += width != height
    summary.upscaled += side < size
    return pixels


def _convert(source: _Source, size: int, images: NDArray[Any], progress: Progress | None) -> ImportSummary:
    """Fill `images` from the front with the pictures that can be read."""
    summary = ImportSummary(ignored=source.ignored)
    for number, name in enumerate(source.names, start=1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of odd metadata and of pictures that are merely large
                pixels = _square(source.read(name), size, summary)
        except Exception as error:  # decoders fail in many ways; each means that this file cannot be read
            summary.unreadable_count += 1
            if len(summary.unreadable) < NAMES_SHOWN:
                known = not isinstance(error, UnidentifiedImageError)
                summary.unreadable[name] = (
                    (str(error) or type(error).__name__) if known else "not a known picture format"
                )
        else:
            images[summary.pictures - 1] = pixels
        if progress:
            progress(number, len(source.names))
    summary.modes = dict(sorted(summary.modes.items()))
    return summary


def _shorten(path: Path, count: int) -> None:
    """Keep the first `count` pictures of the array at `path`."""
    whole = np.lib.format.open_memmap(path, mode="r")
    kept = create_array(path.with_name("kept.npy"), np.uint8, (count, *whole.shape[1:]))
    for start in range(0, count, 256):  # bounded memory
        kept[start : start + 256] = whole[start : min(start + 256, count)]
    os.replace(path.with_name("kept.npy"), path)


def _check_names(source: Path, found: _Source) -> None:
    if found.names:
        return
    if not found.ignored:
        raise UserError(f"{source} is empty. Give a folder or a .zip file that holds pictures.")
    others = ", ".join(f"{suffix} ({count})" for suffix, count in found.ignored.items())
    raise UserError(f"{source} holds no pictures, only {others}. Known suffixes: {' '.join(SUFFIXES)}.")


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


def import_images(
    source: str | Path,
    size: int,
    out: str | Path,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> ImageDataset:
    """Make the data set `out` of the pictures in a folder (with its subfolders) or in a zip file.

    Each is turned upright as its EXIF data ask, cut to its middle square, laid on white where it is transparent,
    converted to 8-bit RGB and resized to `size` with a Lanczos filter. Of an animation the first frame is taken. The
    order is that of the names. Hidden files, other files and links to folders are left aside. What was found and done
    is kept in `dataset.json`: `dataset.metadata["summary"]`, the fields of `ImportSummary`. The source is only read;
    after an error or an interruption no `out` is there.

    Args:
        source: folder or .zip file.
        size: pixels, a power of two from 4 to 1024; smaller pictures are enlarged, and counted.
        skip_unreadable: leave pictures out that cannot be read, instead of refusing.
        progress: told (pictures done, pictures in all).

    Raises:
        UserError: bad size, `out` exists, no room on the disk, `source` is missing or holds no pictures, or some
            cannot be read (all are tried, the first ten named).
    """
    source, out = Path(source), Path(out)
    if source.exists() and out.exists() and out.samefile(source):
        raise UserError(f"{out} holds the pictures themselves. Choose another --out.")
    check_target(out, size)
    with _open_source(source) as found:
        _check_names(source, found)
        recipe = {"name": "import", "source": str(source), "size": size}
        folder = claim_partial(out, recipe)
        try:
            for left_over in folder.glob("*.npy"):  # of an import that was killed
                left_over.unlink()
            images = create_array(folder / "images.npy", np.uint8, (len(found.names), size, size, 3))
            summary = _convert(found, size, images, progress)
            _check_unreadable(source, summary, skip_unreadable)
            del images
            if summary.unreadable_count:
                _shorten(folder / "images.npy", summary.pictures)
            return publish(folder, out, [], {**recipe, "summary": asdict(summary)})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
