"""Directions in motion: pictures swing along each of them and back, without a seam."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.method import Progress
from hessian_penalty.errors import check_number
from hessian_penalty.reports.direction_images import (
    MovedSamples,
    check_extent,
    chosen_directions,
    direction_labels,
    placed_along,
)
from hessian_penalty.reports.grids import GridPainter
from hessian_penalty.reports.video import write_mp4

SAMPLES, FRAMES, FRAMES_PER_SECOND, EXTENT, BATCH_SIZE = 4, 90, 30, 3.0, 64
ROWS = 12  # directions a file: taller frames fit no screen
GROUND, LABEL_INK = (22, 26, 31), (201, 209, 217)  # a video has no transparency: its own dark ground, everywhere

T = TypeVar("T")


def swing(frame: int, frames: int, extent: float) -> float:
    r"""Position along a direction: :math:`-e\cos(2\pi t/T)`, from -e to e and back, smooth at the seam too.

    Args:
        frame, frames: t and T.
        extent: e.

    >>> [round(swing(t, 8, 2.0), 2) for t in range(9)]
    [-2.0, -1.41, -0.0, 1.41, 2.0, 1.41, 0.0, -1.41, -2.0]
    """
    return -extent * math.cos(2 * math.pi * frame / frames)


def direction_frames(
    G: Callable[..., Any],
    directions: Directions,
    indices: Sequence[int] | None = None,
    *,
    samples: int = SAMPLES,
    frames: int = FRAMES,
    extent: float = EXTENT,
    rng: torch.Generator | None = None,
    batch_size: int = BATCH_SIZE,
    prefix: str = "direction ",
    **conditions: Any,
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Frames, made one at a time: a labelled row for each direction, a column for each picture.

    Every picture is placed at -extent, goes to extent and comes back; the frame after the last is the first again.
    What is held is one frame, and of its images one row and one pass of the generator.

    Args:
        G: the generator.
        directions: where they are from.
        indices: the directions to show, one a row; None shows all.
        samples: columns.
        frames: of one way there and back.
        extent: the largest position.
        rng: draws the latents; None is a generator seeded with 0. The first one is that of `direction_sheet`.
        batch_size: most latents a pass of G; bounds memory.
        prefix: word before a direction's number in its label.
        conditions: as of `MovedSamples`.

    Raises:
        UserError: a direction that is not there, a number out of range, or a generator that the directions do not fit.
    """
    chosen = chosen_directions(directions, indices)
    _check(frames, extent)
    moved = MovedSamples(G, directions, samples=samples, rng=rng, batch_size=batch_size, conditions=conditions)
    return _frames(moved, directions, chosen, frames, extent, prefix)


def direction_video(
    G: Callable[..., Any],
    directions: Directions,
    path: str | Path,
    indices: Sequence[int] | None = None,
    *,
    frames: int = FRAMES,
    fps: int = FRAMES_PER_SECOND,
    progress: Progress | None = None,
    **options: Any,
) -> None:
    """Write one looping MP4 of some directions; it grows with their number (see `direction_videos`).

    Args:
        fps: frames a second.
        progress: called with (done, total) frames.
        options: as of `direction_frames`.
    """
    check_number("fps", fps, 1)
    made = direction_frames(G, directions, indices, frames=frames, **options)
    write_mp4(path, _counted(made, progress, 0, frames), frames_per_second=fps)


def direction_videos(
    G: Callable[..., Any],
    directions: Directions,
    folder: str | Path,
    *,
    indices: Sequence[int] | None = None,
    rows: int = ROWS,
    samples: int = SAMPLES,
    frames: int = FRAMES,
    extent: float = EXTENT,
    fps: int = FRAMES_PER_SECOND,
    rng: torch.Generator | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
    **conditions: Any,
) -> list[Path]:
    """Write looping MP4s, each of a few directions, all with the same pictures.

    Files are named after their first and last direction: `directions-000-011.mp4`, or `direction-004.mp4` with
    `rows=1`. They are made one after the other, frame by frame: the memory grows neither with the number of directions
    nor with that of the frames.

    Args:
        folder: where the files go; it is made if it is not there.
        rows: directions a file.
        fps: frames a second.
        progress: called with (done, total) frames of all files.
        G, directions, indices, samples, frames, extent, rng, batch_size, conditions: as of `direction_frames`.

    Returns:
        The files, in order.

    Raises:
        UserError: as of `direction_frames`.
    """
    chosen = chosen_directions(directions, indices)
    _check(frames, extent)
    check_number("fps", fps, 1)
    check_number("rows", rows, 1)
    moved = MovedSamples(G, directions, samples=samples, rng=rng, batch_size=batch_size, conditions=conditions)
    groups = [chosen[start : start + rows] for start in range(0, len(chosen), rows)]
    paths = []
    for number, group in enumerate(groups):
        path = Path(folder) / _file_name(group)
        made = _frames(moved, directions, group, frames, extent)
        counted = _counted(made, progress, number * frames, len(groups) * frames)
        write_mp4(path, counted, frames_per_second=fps)
        paths.append(path)
    return paths


def _check(frames: int, extent: float) -> None:
    check_number("frames", frames, 2)
    check_extent(extent)


def _file_name(group: Sequence[int]) -> str:
    if len(group) == 1:
        return f"direction-{group[0]:03d}.mp4"
    return f"directions-{group[0]:03d}-{group[-1]:03d}.mp4"


def _frames(
    moved: MovedSamples,
    directions: Directions,
    indices: Sequence[int],
    frames: int,
    extent: float,
    prefix: str = "direction ",
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    rows = directions.matrix[list(indices)]
    painter = None
    for frame in range(frames):
        positions = torch.full((len(rows),), swing(frame, frames, extent))
        images = moved.images(placed_along(moved.z, rows, positions))
        if painter is None:
            first = next(images)
            columns, _, height, width = first.shape
            painter = GridPainter(
                len(rows), columns, height, width, row_labels=direction_labels(directions, indices, prefix),
                background=GROUND, ink=LABEL_INK, even=True,
            )  # fmt: skip
            images = chain([first], images)
        yield painter.paint_array(images)


def _counted(items: Iterable[T], progress: Progress | None, done: int, total: int) -> Iterator[T]:
    for item in items:
        yield item
        done += 1
        if progress:
            progress(done, total)
