"""3D Shapes: 480,000 pictures of one object in a room, with the six factors that made them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_penalty.data.array_import import BLOCK_ROWS, SOURCE_SIZE, ArrayImport, Block, reading
from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.data.partial_folder import Progress
from hessian_penalty.errors import UserError

HUES = ("floor_hue", "wall_hue", "object_hue")
SHAPES = ("cube", "cylinder", "sphere", "capsule")  # 0 to 3 in the file
FILE = "the published 3dshapes.h5"
_DAMAGES = (OSError, RuntimeError, KeyError, ValueError)


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"3dshapes.h5 needs h5py, which cannot be imported ({error}): pip install 'hessian-penalty[hdf5]'."
        ) from None
    return h5py


def _dataset(source: Path, file: Any, name: str, kind: str, row: tuple[int, ...]) -> Any:
    found = file.get(name)
    if not isinstance(found, _h5py().Dataset):
        raise UserError(f"{source} holds no data set `{name}`, only {', '.join(file) or 'nothing'}: expected {FILE}.")
    if found.dtype != kind or found.shape[1:] != row or not found.size:
        wanted = f"{kind} ({', '.join(map(str, ('N', *row)))})"
        raise UserError(f"{source}: `{name}` is {found.dtype} {found.shape}, expected {wanted}: give {FILE}.")
    return found


def _images(source: Path, file: Any) -> Any:
    return _dataset(source, file, "images", "uint8", (SOURCE_SIZE, SOURCE_SIZE, 3))


def _blocks(source: Path, rows: NDArray[np.int64]) -> Iterator[Block]:
    with reading(source, FILE, *_DAMAGES), _h5py().File(source, "r") as file:
        images = _images(source, file)
        for first in np.unique(rows // BLOCK_ROWS) * BLOCK_ROWS:
            yield int(first), images[first : first + BLOCK_ROWS]


def _labels(source: Path) -> NDArray[np.float64]:
    with reading(source, FILE, *_DAMAGES), _h5py().File(source, "r") as file:
        total = len(_images(source, file))
        labels = _dataset(source, file, "labels", "float64", (6,))[:]
    if len(labels) != total:
        raise UserError(f"{source} has {total} images and {len(labels)} rows of labels: give {FILE}.")
    hues, shapes = labels[:, :3], labels[:, 4]
    if not np.isfinite(labels).all() or not np.isin(shapes, range(4)).all() or (hues < 0).any() or (hues >= 1).any():
        raise UserError(
            f"{source}: `labels` has hues outside [0, 1), shapes other than 0 to 3, or is not finite: give {FILE}."
        )
    return np.asarray(labels)


def import_shapes3d(
    source: str | Path,
    size: int,
    out: str | Path,
    *,
    count: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ImageDataset:
    """Make the data set `out` of the published 3D Shapes file.

    Its factors: the hues of floor, wall and object (circular, ten steps of 0.1), scale (0.75 to 1.25), shape (cube,
    cylinder, sphere, capsule) and orientation (-30 to 30 degrees). The pictures are read in the file's order, 12 MB of
    the 6 GB at a time; where a small `count` leaves whole blocks out, these are not read.

    Args:
        source: 3dshapes.h5; reading it needs h5py, the extra "hdf5".
        size: pixels: 64, or box averages at 32, 16, 8 or 4.
        count: of a random subset, in the file's order; None takes all 480,000.
        seed: of that subset, at least 0.
        progress: told (pictures done, pictures in all).

    Raises:
        UserError: bad size, count or seed, `out` exists, no room on the disk, h5py is missing, or `source` is not that
            file, or damaged.

    Source: Burgess and Kim, "3D Shapes Dataset", 2018; used in Kim and Mnih, "Disentangling by Factorising", ICML 2018.
    """
    job = ArrayImport("shapes3d", Path(source), size, Path(out), count, seed)
    labels = _labels(job.source)
    rows = job.rows(len(labels))
    *hues, scale, shape, orientation = labels[rows].T
    factors = [
        *(Factor(name, "circular", values) for name, values in zip(HUES, hues, strict=True)),
        Factor("scale", "continuous", scale),
        Factor("shape", "categorical", shape.astype(np.int64), SHAPES),
        Factor("orientation", "continuous", orientation),
    ]
    return job.write(rows, _blocks(job.source, rows), factors, progress)
