"""The traversal in motion: a video of directions, along the axes."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from hessian_penalty.directions.directions import Directions
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.direction_video import direction_frames
from hessian_penalty.reports.traversals import TRAVERSAL_LIMIT, traversal_rows
from hessian_penalty.reports.video import write_mp4


def traversal_frames(
    generator: Generator,
    *,
    activeness: Sequence[float] | None = None,
    most: int | None = None,
    seed: int = 0,
    **options: Any,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames, made one at a time: a labelled row for each latent, a column for each base latent.

    The first base is the one that `traversal_grid` shows for the same seed.

    Args:
        activeness: one figure for each latent; orders and labels the rows. None keeps the index order.
        most: rows at most.
        seed: of the base latents.
        options: as of `direction_frames`.

    Raises:
        UserError: `activeness` is not one figure for each latent; or as of `direction_frames`.
    """
    order, _ = traversal_rows(generator.latent_dim, activeness, most)
    known = None if activeness is None else torch.tensor(activeness, dtype=torch.float64)
    axes = Directions(torch.eye(generator.latent_dim), activeness=known)
    rng = torch.Generator().manual_seed(seed)
    return direction_frames(generator, axes, order, extent=TRAVERSAL_LIMIT, rng=rng, prefix="z", **options)


def traversal_mp4(generator: Generator, **options: Any) -> bytes:
    """The looping traversal as the bytes of an MP4 file, 3 seconds by default.

    Args:
        options: as of `traversal_frames`.
    """
    with tempfile.TemporaryDirectory() as folder:  # an index in front needs a file that can be read back
        path = Path(folder) / "traversal.mp4"
        write_mp4(path, traversal_frames(generator, **options))
        return path.read_bytes()
