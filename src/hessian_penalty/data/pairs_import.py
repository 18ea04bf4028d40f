"""Edges and photographs side by side, as pix2pix publishes them: both halves in one unpaired data set."""

from pathlib import Path

import numpy as np

from hessian_penalty.data.folder_import import Box, import_tiles
from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.data.partial_folder import Progress

DOMAINS = ("edges", "photo")  # left, right


def _halves(width: int, height: int) -> list[Box]:
    if width != 2 * height:
        raise ValueError(f"{width}x{height} pixels, expected twice as wide as high")
    return [(0, 0, height, height), (height, 0, width, height)]


def _domain(count: int) -> list[Factor]:
    return [Factor("domain", "categorical", np.arange(count) % len(DOMAINS), DOMAINS)]


def import_pairs(
    source: str | Path,
    size: int,
    out: str | Path,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> ImageDataset:
    """Make the data set `out` of both halves of side-by-side pictures: N pairs become 2N images.

    The left half is the edges, the right half the photo. Each becomes an RGB square as in `import_images`; a picture
    that is not twice as wide as high counts as unreadable. The order is that of the names (train/ before val/), and of
    each pair the edges come first. Which half an image was is its factor "domain".

    The published set is edges2shoes.tar.gz: 49,825 pairs in train/ and 200 in val/, JPEGs of 512x256 pixels.

    Args:
        source: folder, or a .zip, .tar, .tar.gz or .tgz file.
        size: pixels, a power of two from 4 to 1024.
        skip_unreadable: leave pairs out that cannot be read, instead of refusing.
        progress: told (pairs done, pairs in all).

    Raises:
        UserError: as `import_images` does.

    Source: Isola, Zhu, Zhou and Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017;
    both halves together, unpaired, as in Peebles et al., "The Hessian Penalty", ECCV 2020.
    """
    return import_tiles(Path(source), size, Path(out), "pairs", _halves, _domain, skip_unreadable, progress)
