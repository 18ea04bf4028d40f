"""Traversals: one latent moves, the others stay, a row of images for each latent."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.grids import image_grid
from hessian_penalty.reports.samples import generate, seeded_latents

TRAVERSAL_LIMIT = 2.0  # latents move between minus and plus this many standard deviations
MOST_ROWS = 16  # latents shown in run folders and on the page, the most active; more would not be legible


def by_activeness(activeness: Sequence[float], most: int | None = None) -> list[int]:
    """Indices of the latents, the most active first; equal ones keep their order; only the `most` first.

    >>> by_activeness([0.1, 0.4, 0.0, 0.4], most=3)
    [1, 3, 0]
    """
    return sorted(range(len(activeness)), key=lambda index: -activeness[index])[:most]


def activeness_text(value: float, largest: float) -> str:
    """A model's activeness with as many decimals as its largest one needs, so that all are equally long.

    >>> activeness_text(0.0213, 0.3), activeness_text(0.00004, 0.0006)
    ('0.021', '0.00004')
    """
    decimals = 3 if largest >= 0.01 else 5
    return f"{value:.{decimals}f}"


def latent_labels(order: Sequence[int], activeness: Sequence[float] | None = None, prefix: str = "z") -> list[str]:
    r"""A label for each latent: its name, and below it its activeness where that is known.

    >>> latent_labels([3, 0], [0.0, 0.0, 0.0, 0.0213])
    ['z3\n0.021', 'z0\n0.000']
    """
    if activeness is None:
        return [f"{prefix}{index}" for index in order]
    return [f"{prefix}{index}\n{activeness_text(activeness[index], max(activeness))}" for index in order]


def range_headings(columns: int, limit: float) -> list[str]:
    """Headings of columns from -limit to +limit: the ends, and 0 where a column shows it.

    >>> range_headings(5, 2.5)
    ['−2.5', '', '0', '', '+2.5']
    """
    ends = {0: f"{-limit:+g}", columns - 1: f"{limit:+g}", (columns - 1) / 2: "0"}
    return [ends.get(column, "").replace("-", "\N{MINUS SIGN}") for column in range(columns)]


def traversal_rows(
    latent_dim: int, activeness: Sequence[float] | None, most: int | None = None
) -> tuple[list[int], list[str]]:
    """Order and labels of the rows: by activeness where it is known, else by index.

    Raises:
        UserError: `activeness` is not one figure for each latent.
    """
    if activeness is None:
        order = list(range(latent_dim))[:most]
    elif len(activeness) != latent_dim:
        raise UserError(
            f"`activeness` must hold one figure for each of the {latent_dim} latents, got {len(activeness)}."
        )
    else:
        order = by_activeness(activeness, most)
    return order, latent_labels(order, activeness)


def traversal_latents(
    bases: Float[Tensor, "columns latent"], order: Sequence[int], values: Float[Tensor, " columns"]
) -> Float[Tensor, "rows columns latent"]:
    """Row r holds the bases with component `order[r]` of column c set to `values[c]`.

    >>> traversal_latents(torch.zeros(2, 3), [2, 0], torch.tensor([-1.0, 1.0])).tolist()
    [[[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]], [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]

    Raises:
        UserError: `order` names a latent that is not there, or none.
    """
    latent_dim = bases.shape[1]
    wrong = [index for index in order if not 0 <= index < latent_dim]
    if wrong or not order:
        raise UserError(f"`order` must name latents from 0 to {latent_dim - 1}, got {wrong or 'none'}.")
    z = bases.repeat(len(order), 1, 1)  # (rows, columns, n)
    for row, index in enumerate(order):
        z[row, :, index] = values.to(z)
    return z


def traverse(
    generator: Generator,
    base: Float[Tensor, " latent"] | int,
    order: Sequence[int],
    values: Float[Tensor, " columns"],
) -> Float[Tensor, "rows columns channels height width"]:
    """Images with latent `order[row]` set to `values[column]` and the others as in `base`.

    A generator that normalises its latents does so here too: what its users see.

    Args:
        base: the latent vector to start from, or a seed that draws one.
        order: the latents, one a row.
        values: what each of them is set to, one a column.
    """
    start = seeded_latents(generator, 1, base)[0] if isinstance(base, int) else base
    return generate(generator, traversal_latents(start.expand(len(values), -1), order, values))


def traversal_grid(
    generator: Generator,
    *,
    activeness: Sequence[float] | None = None,
    most: int | None = None,
    seed: int = 0,
    columns: int = 7,
    **options: Any,
) -> Image.Image:
    """A picture of one traversal: a labelled row for each latent, z from -2 (left) to 2 (right).

    Args:
        activeness: one figure for each latent; orders and labels the rows. None keeps the index order.
        most: rows at most.
        seed: of the base latent.
        columns: steps from -2 to 2.
        options: as of `image_grid`.
    """
    order, labels = traversal_rows(generator.latent_dim, activeness, most)
    values = torch.linspace(-TRAVERSAL_LIMIT, TRAVERSAL_LIMIT, columns)
    headings = range_headings(columns, TRAVERSAL_LIMIT)
    images = traverse(generator, seed, order, values)
    return image_grid(images, row_labels=labels, column_labels=headings, **options)
