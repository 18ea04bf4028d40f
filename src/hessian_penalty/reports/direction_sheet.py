"""Directions on paper: what each of them changes, and what an edit along one of them does."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.reports.direction_images import (
    MovedSamples,
    check_extent,
    chosen_directions,
    direction_labels,
    placed_along,
)
from hessian_penalty.reports.grids import GridPainter, png_bytes
from hessian_penalty.reports.traversals import range_headings
from hessian_penalty.runs import atomic_path


def direction_sheet(
    G: Callable[..., Any],
    directions: Directions,
    path: str | Path,
    *,
    count: int | None = None,
    samples: int = 1,
    steps: int = 7,
    extent: float = 3.0,
    rng: torch.Generator | None = None,
    batch_size: int = 64,
    **conditions: Any,
) -> None:
    """Write a PNG with a labelled row for each direction: pictures placed along it, from -extent to extent.

    Args:
        G: the generator.
        directions: what to show.
        path: of the PNG file.
        count: only the first ones; None shows all.
        samples: rows a direction, each another picture.
        steps: columns.
        extent: the largest position; latents of N(0, I) have standard deviation 1 along every direction.
        rng: draws the latents; None is a generator seeded with 0.
        batch_size: most latents a pass of G; bounds memory.
        conditions: as of `MovedSamples`.

    Raises:
        UserError: a number out of range, or a generator that these directions do not fit.

    >>> import tempfile
    >>> G = lambda z: z[:, :1, None, None].expand(-1, 1, 8, 8) / 3
    >>> target = Path(tempfile.mkdtemp()) / "sheet.png"
    >>> direction_sheet(G, Directions(torch.eye(2)), target, steps=3)
    >>> target.read_bytes()[1:4]
    b'PNG'
    """
    if count is not None and not 1 <= count <= len(directions):
        raise UserError(f"`count` must lie in [1, {len(directions)}], the number of directions, got {count}.")
    check_number("steps", steps, 2)
    check_extent(extent)
    indices = chosen_directions(directions)[:count]
    moved = MovedSamples(G, directions, samples=samples, rng=rng, batch_size=batch_size, conditions=conditions)
    positions = torch.linspace(-extent, extent, steps)

    def rows() -> Iterator[Tensor]:
        for index in indices:
            yield from _rows(moved, placed_along(moved.z, directions.matrix[index].expand(steps, -1), positions))

    _write(path, rows(), directions, indices, samples=samples, headings=range_headings(steps, extent))


def edit_sheet(
    G: Callable[..., Any],
    directions: Directions,
    path: str | Path,
    index: int,
    amounts: Sequence[float],
    *,
    samples: int = 4,
    rng: torch.Generator | None = None,
    batch_size: int = 64,
    **conditions: Any,
) -> None:
    """Write a PNG with a row for each picture: as it is, then edited along one direction by each of the amounts.

    Other than in `direction_sheet`, an amount is added to what the latent has along the direction.

    Args:
        G: the generator.
        directions: where the direction is from.
        path: of the PNG file.
        index: of the direction.
        amounts: one a column.
        samples: pictures to edit.
        rng: draws the latents; None is a generator seeded with 0.
        batch_size: most latents a pass of G; bounds memory.
        conditions: as of `MovedSamples`.

    Raises:
        UserError: there is no such direction, no amount, or a generator that these directions do not fit.
    """
    if not amounts or not all(math.isfinite(amount) for amount in amounts):
        raise UserError(f"`amounts` must hold at least one number, and finite ones, got {list(amounts) or 'none'}.")
    chosen_directions(directions, [index])
    moved = MovedSamples(G, directions, samples=samples, rng=rng, batch_size=batch_size, conditions=conditions)
    points = torch.stack([moved.z, *(directions.edit(moved.z, index, float(amount)) for amount in amounts)])
    headings = ["original", *(f"{amount:+g}".replace("-", "\N{MINUS SIGN}") for amount in amounts)]
    _write(path, _rows(moved, points), directions, [index], samples=samples, headings=headings)


def _rows(moved: MovedSamples, points: Float[Tensor, "columns samples latent"]) -> Iterator[Tensor]:
    """One row of images a sample, its columns the corners."""
    yield from torch.stack(list(moved.images(points)), dim=1)  # (samples, columns, C, H, W)


def _write(
    path: str | Path,
    rows: Iterator[Tensor],
    directions: Directions,
    indices: Sequence[int],
    *,
    samples: int,
    headings: Sequence[str],
) -> None:
    first = next(rows)
    columns, _, height, width = first.shape
    painter = GridPainter(
        len(indices) * samples,
        columns,
        height,
        width,
        row_labels=direction_labels(directions, indices),
        column_labels=headings,
        rows_a_label=samples,
    )
    picture = painter.paint(chain([first], rows))
    with atomic_path(path) as temporary:
        temporary.write_bytes(png_bytes(picture))
