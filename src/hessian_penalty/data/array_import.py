"""Published data sets in one file of pictures and factors: a seeded subset, box-averaged, block by block."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.data.partial_folder import Progress, check_target, create_array, fresh_partial, publish
from hessian_penalty.errors import UserError

SOURCE_SIZE = 64  # pixels, of dSprites and 3D Shapes alike
BLOCK_ROWS = 1024  # pictures in memory at a time: 12 MB in RGB

Block = tuple[int, NDArray[np.uint8]]  # (row of the first picture, pictures (rows, 64, 64, C))


def box_average(images_uint8: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Shrink square pictures (N, H, H, C) to `size`, a divisor of H: each pixel is the mean of a box, rounded half up.

    >>> int(box_average(np.array([0, 255, 255, 255], np.uint8).reshape(1, 2, 2, 1), 1)[0, 0, 0, 0])
    191
    """
    count, height, _, channels = images_uint8.shape
    box = height // size
    boxes = images_uint8.reshape(count, size, box, size, box, channels)
    sums = boxes.sum(axis=(2, 4), dtype=np.uint32)  # (N, size, size, C)
    averages: NDArray[np.uint8] = ((sums + box * box // 2) // (box * box)).astype(np.uint8)
    return averages


@contextmanager
def reading(source: Path, expected: str, *damages: type[Exception]) -> Iterator[None]:
    """Turn what a reader raises where `source` is damaged, or another kind of file, into one message.

    Raises:
        UserError: one of `damages` was raised, or a UserError.
    """
    try:
        yield
    except UserError:
        raise
    except damages as error:
        raise UserError(
            f"{source} cannot be read ({error}): expected {expected}. Fetch it anew, or give another --kind."
        ) from None


@dataclass(frozen=True)
class ArrayImport:
    """One import of a file that holds all pictures in one array.

    Args:
        kind: of the file, "dsprites" or "shapes3d".
        source: the file.
        size: pixels, 64 or a lower power of two from 4.
        out: folder to make.
        count: of a random subset; None takes all.
        seed: of that subset.

    Raises:
        UserError: bad size, count or seed, `out` exists, or `source` is no file.
    """

    kind: str
    source: Path
    size: int
    out: Path
    count: int | None
    seed: int

    def __post_init__(self) -> None:
        if not self.source.is_file():
            what = "is a folder" if self.source.is_dir() else "does not exist"
            raise UserError(f"{self.source} {what}. Give the published {self.kind} file.")
        if self.seed < 0:
            raise UserError(f"`seed` must not be negative, got {self.seed}.")
        check_target(self.out, self.size)
        if self.size > SOURCE_SIZE:
            raise UserError(
                f"`size` must be at most {SOURCE_SIZE}, the size of the {self.kind} pictures, got {self.size}."
            )

    def rows(self, total: int) -> NDArray[np.int64]:
        """The rows to take of `total`, sorted, each at most once.

        Raises:
            UserError: so many are not there.
        """
        if self.count is None:
            return np.arange(total)
        if not 1 <= self.count <= total:
            raise UserError(f"`count` must be from 1 to {total}, all that {self.source} holds, got {self.count}.")
        return np.sort(np.random.default_rng(self.seed).choice(total, self.count, replace=False))

    def write(
        self, rows: NDArray[np.int64], blocks: Iterable[Block], factors: list[Factor], progress: Progress | None
    ) -> ImageDataset:
        """Make the data set of `rows`, which `blocks` must hold in ascending order; one block is in memory at a time.

        Raises:
            UserError: no room on the disk, or whatever `blocks` raises.
        """
        recipe: dict[str, Any] = {
            "name": "import", "kind": self.kind, "source": str(self.source), "size": self.size,
            "count": len(rows), "seed": None if self.count is None else self.seed,
        }  # fmt: skip
        with fresh_partial(self.out, recipe) as folder:
            images = None
            for first, pixels in blocks:
                start, end = np.searchsorted(rows, (first, first + len(pixels)))
                if images is None:
                    shape = (len(rows), self.size, self.size, pixels.shape[-1])
                    images = create_array(folder / "images.npy", np.uint8, shape)
                images[start:end] = box_average(pixels[rows[start:end] - first], self.size)
                if progress:
                    progress(int(end), len(rows))
            del images
            return publish(folder, self.out, factors, recipe)
