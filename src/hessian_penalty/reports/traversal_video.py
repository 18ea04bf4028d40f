"""The traversal in motion: every latent swings through its range and back, without a seam."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.grids import GridPainter
from hessian_penalty.reports.samples import generate, seeded_latents
from hessian_penalty.reports.traversals import TRAVERSAL_LIMIT, traversal_latents, traversal_rows
from hessian_penalty.reports.video import write_mp4

GROUND, LABEL_INK = (22, 26, 31), (201, 209, 217)  # a video has no transparency: its own dark ground, everywhere


def swing(frame: int, frames: int, limit: float = TRAVERSAL_LIMIT) -> float:
    r"""Value of the moving latent: :math:`-2\cos(2\pi t/T)`, from -2 to 2 and back, smooth at the seam too.

    Args:
        frame, frames: t and T.
        limit: what to put for 2.

    >>> [round(swing(t, 8), 2) for t in range(9)]
    [-2.0, -1.41, -0.0, 1.41, 2.0, 1.41, 0.0, -1.41, -2.0]
    """
    return -limit * math.cos(2 * math.pi * frame / frames)


def traversal_frames(
    generator: Generator,
    *,
    activeness: Sequence[float] | None = None,
    most: int | None = None,
    seed: int = 0,
    columns: int = 4,
    frames: int = 90,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """The frames, made one at a time: a labelled row for each latent, a column for each base latent.

    The frame after the last would be the first again. The first base is the one that `traversal_grid` shows for the
    same seed.

    Args:
        activeness: one figure for each latent; orders and labels the rows. None keeps the index order.
        most: rows at most.
        seed: of the base latents.
        columns: base latents.
        frames: of one swing.

    Raises:
        UserError: fewer than 2 frames.
    """
    if frames < 2:
        raise UserError(f"`frames` must be at least 2 for anything to move, got {frames}.")
    order, labels = traversal_rows(generator.latent_dim, activeness, most)
    bases = seeded_latents(generator, columns, seed)
    painter = None
    for frame in range(frames):
        values = torch.full((columns,), swing(frame, frames))
        images = generate(generator, traversal_latents(bases, order, values))
        if painter is None:
            height, width = images.shape[-2:]
            painter = GridPainter(
                len(order), columns, height, width, row_labels=labels, background=GROUND, ink=LABEL_INK, even=True
            )
        yield painter.paint_array(images)


def write_traversal_video(path: str | Path, generator: Generator, **options: Any) -> None:
    """Write the looping traversal as MP4, 3 seconds by default.

    Args:
        options: as of `traversal_frames`.
    """
    write_mp4(path, traversal_frames(generator, **options))


def traversal_mp4(generator: Generator, **options: Any) -> bytes:
    """The looping traversal as the bytes of an MP4 file.

    Args:
        options: as of `traversal_frames`.
    """
    with tempfile.TemporaryDirectory() as folder:  # an index in front needs a file that can be read back
        path = Path(folder) / "traversal.mp4"
        write_traversal_video(path, generator, **options)
        return path.read_bytes()
