"""dSprites: 737,280 grey pictures of one white shape, with the five factors that made them."""

import math
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_penalty.data.array_import import BLOCK_ROWS, SOURCE_SIZE, ArrayImport, Block, reading
from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.data.partial_folder import Progress
from hessian_penalty.errors import UserError

SHAPES = ("square", "ellipse", "heart")  # 1, 2, 3 in the file
FILE = "the published dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
_DAMAGES = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str, dtype: type, row: tuple[int, ...]) -> Iterator[tuple[Any, int]]:
    """The array `name`, a stream that stands behind its header, and the rows that this promises; never a pickle."""
    try:
        member = archive.open(f"{name}.npy")
    except KeyError:
        others = ", ".join(archive.namelist()[:10])
        raise UserError(f"{archive.filename} holds no array `{name}`, only {others}: expected {FILE}.") from None
    with member as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"`{name}` has .npy version {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy finds headers that Python 2 wrote slow
            shape, fortran_order, found = read(stream)
        if found != dtype or shape[1:] != row or not shape or not shape[0] or fortran_order:
            wanted = f"{np.dtype(dtype)} ({', '.join(map(str, ('N', *row)))})"
            order = " in Fortran order" if fortran_order else ""
            raise UserError(
                f"{archive.filename}: `{name}` is {found} {shape}{order}, expected {wanted} in C order: give {FILE}."
            )
        yield stream, int(shape[0])


def _read(stream: Any, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    data = stream.read(math.prod(shape) * np.dtype(dtype).itemsize)
    return np.frombuffer(data, dtype).reshape(shape)  # ValueError where the data end early


def _blocks(source: Path) -> Iterator[Block]:
    with (
        reading(source, FILE, *_DAMAGES),
        zipfile.ZipFile(source) as archive,
        _member(archive, "imgs", np.uint8, (SOURCE_SIZE, SOURCE_SIZE)) as (stream, total),
    ):
        for first in range(0, total, BLOCK_ROWS):
            pixels = _read(stream, np.uint8, (min(BLOCK_ROWS, total - first), SOURCE_SIZE, SOURCE_SIZE, 1))
            if pixels.max() > 1:
                raise UserError(f"{source}: `imgs` holds {pixels.max()}, expected 0 and 1: give {FILE}.")
            yield first, pixels * np.uint8(255)


def _latents(source: Path) -> NDArray[np.float64]:
    with reading(source, FILE, *_DAMAGES), zipfile.ZipFile(source) as archive:
        with _member(archive, "imgs", np.uint8, (SOURCE_SIZE, SOURCE_SIZE)) as (_, total):
            pass
        with _member(archive, "latents_values", np.float64, (6,)) as (stream, rows):
            latents = _read(stream, np.float64, (rows, 6))
    if rows != total:
        raise UserError(f"{source} has {total} pictures and {rows} rows of latents: give {FILE}.")
    if not np.isfinite(latents).all() or not np.isin(latents[:, 1], (1, 2, 3)).all():
        raise UserError(f"{source}: `latents_values` has shapes other than 1, 2, 3, or is not finite: give {FILE}.")
    return latents


def import_dsprites(
    source: str | Path,
    size: int,
    out: str | Path,
    *,
    count: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageDataset:
    """Make the data set `out` of the published dSprites file: one grey channel, 0 or 255 before shrinking.

    Its factors: shape (square, ellipse, heart), scale (0.5 to 1), orientation (circular, a turn being 1), x and y
    (0 to 1); the colour, always white, is left out. The pictures are read as a stream: 4 MB of the 3 GB are in memory.
    Of the file's arrays `imgs` and `latents_values` are read; its pickled `metadata` never is.

    Args:
        source: dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz.
        size: pixels: 64, or box averages at 32, 16, 8 or 4.
        count: of a random subset, in the file's order; None takes all 737,280.
        seed: of that subset, at least 0.
        progress: told (pictures done, pictures in all).

    Raises:
        UserError: bad size, count or seed, `out` exists, no room on the disk, or `source` is not that file, or damaged.

    Source: Matthey, Higgins, Hassabis and Lerchner, "dSprites: Disentanglement testing Sprites dataset", 2017.
    """
    job = ArrayImport("dsprites", Path(source), size, Path(out), count, seed)
    latents = _latents(job.source)
    rows = job.rows(len(latents))
    _, shape, scale, orientation, x, y = latents[rows].T
    factors = [
        Factor("shape", "categorical", shape.astype(np.int64) - 1, SHAPES),
        Factor("scale", "continuous", scale),
        Factor("orientation", "circular", orientation / (2 * math.pi) % 1.0),  # the file has 0 and 2π
        Factor("x", "continuous", x),
        Factor("y", "continuous", y),
    ]
    return job.write(rows, _blocks(job.source), factors, progress)
