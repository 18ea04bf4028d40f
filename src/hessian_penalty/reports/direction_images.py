"""Images of a few latents, moved along directions: what sheets and videos of directions are made of."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.method import Space, generator_errors, require_conditions
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.function_generator import as_generator
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.reports.traversals import latent_labels

LARGEST_TILE = 256  # pixels a side; larger images are averaged down, or no player could show a video of them


def placed_along(
    z: Float[Tensor, "samples latent"], rows: Float[Tensor, "corners latent"], positions: Float[Tensor, " corners"]
) -> Float[Tensor, "corners samples latent"]:
    r"""Latents whose component along a direction is set: :math:`z - (z \cdot d)\,d + a\,d`.

    What the latent had along the direction is taken out first, so that a position means the same for every latent.
    Source: the published videos of Peebles et al., ECCV 2020.

    >>> placed_along(torch.ones(1, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([-3.0, 0.5]))
    tensor([[[-3.0000,  1.0000]],
    <BLANKLINE>
            [[ 1.0000,  0.5000]]])

    Args:
        z: the latents.
        rows: unit directions d, one a corner.
        positions: a, one a corner.
    """
    rows, positions = rows.to(z), positions.to(z)
    shifts = positions[:, None] - rows @ z.T  # (corners, samples)
    return z + shifts[:, :, None] * rows[:, None]  # (corners, samples, n)


def chosen_directions(directions: Directions, indices: Sequence[int] | None = None) -> list[int]:
    """Numbers of the directions to show; None is all of them.

    >>> chosen_directions(Directions(torch.eye(3)))
    [0, 1, 2]

    Raises:
        UserError: none, one that is not there, or one twice.
    """
    chosen = list(range(len(directions)) if indices is None else indices)
    if not chosen or len(set(chosen)) < len(chosen) or not all(0 <= index < len(directions) for index in chosen):
        raise UserError(
            f"`indices` must name different directions, each in [0, {len(directions) - 1}], got {chosen or 'none'}."
        )
    return chosen


def direction_labels(directions: Directions, indices: Sequence[int], prefix: str = "direction ") -> list[str]:
    r"""A label for each direction: its number after a word, and below it its activeness where that is known.

    >>> direction_labels(Directions(torch.eye(2), activeness=torch.tensor([0.25, 0.0])), [0])
    ['direction 0\n0.250']
    """
    known = None if directions.activeness is None else directions.activeness.tolist()
    return latent_labels(indices, known, prefix=prefix)


def check_extent(extent: float) -> None:
    """Refuse a range of positions from -extent to extent that has no length.

    Raises:
        UserError: it is not a positive number.
    """
    if not (math.isfinite(extent) and extent > 0):
        raise UserError(f"`extent` must be a positive number, half the length of the way, got {extent:g}.")


class MovedSamples:
    """Random latents with their conditions, and their images wherever they are moved.

    All images begin from the same random numbers and buffers, so that a generator with noise inputs does not flicker.

    Args:
        G: the generator, or any callable from latents to images.
        directions: what it is moved along; only their number of components matters here.
        samples: how many latents. The first ones are the same whatever the number.
        rng: draws them; None is a generator seeded with 0.
        batch_size: most latents a pass of G; bounds memory.
        conditions: further arguments of G. A tensor with one entry for each of the samples follows them; the word
            "random" draws one for each by `G.sample_labels(count, rng)`.

    Raises:
        UserError: a number below 1, a condition that G does not take, or directions of another latent space.

    Attributes:
        z: the latents.
    """

    def __init__(
        self,
        G: Callable[..., Any],
        directions: Directions,
        *,
        samples: int,
        rng: torch.Generator | None,
        batch_size: int,
        conditions: Mapping[str, Any],
    ) -> None:
        check_number("samples", samples, 1)
        check_number("batch_size", batch_size, 1)
        latent_dim = directions.matrix.shape[1]
        own = getattr(G, "latent_dim", latent_dim)
        if own != latent_dim:
            raise UserError(
                f"`directions` have {latent_dim} components, but the generator takes latents of {own}: they were found "
                "for another one."
            )
        generator = as_generator(G, latent_dim)
        require_conditions(generator, conditions)
        rng = rng or torch.Generator().manual_seed(0)
        space = Space(generator, directions.matrix.double(), conditions)
        drawn = [space.sample(1, rng) for _ in range(samples)]  # one by one: the first do not depend on the number
        self.z = torch.cat([z for z, _ in drawn])
        of_samples = {
            name: torch.cat([conditions.of_samples[name] for _, conditions in drawn]) for name in drawn[0][1].of_samples
        }
        self._passes = Passes(Evaluator(generator), self.z, {**conditions, **of_samples})
        self._batch_size = batch_size

    def images(
        self, points: Float[Tensor, "corners samples latent"]
    ) -> Iterator[Float[Tensor, "samples channels height width"]]:
        """Yield images at each corner, in order, on the CPU; at most `batch_size` latents go through G at once.

        Args:
            points: the latents, moved in different ways.

        Raises:
            UserError: G returns something else than one tensor of images.
        """
        parts = [
            self._passes.at(points[:, rows], chunk_size=self._batch_size, rows=rows)
            for rows in torch.arange(points.shape[1], device=points.device).split(self._batch_size)
        ]
        for _ in range(len(points)):
            yield torch.cat([_next_images(part, points.shape[1:]) for part in parts])


@torch.no_grad()
def _next_images(passes: Iterator[list[Tensor]], shape: Sequence[int]) -> Tensor:
    with generator_errors(shape):
        outputs = next(passes)
    if len(outputs) > 1 or outputs[0].ndim != 4:
        shapes = " and ".join(str(tuple(output.shape)) for output in outputs)
        raise UserError(f"The generator must return one tensor of images (N, C, H, W), got {shapes}.")
    images = outputs[0]
    factor = -(-max(images.shape[-2:]) // LARGEST_TILE)
    return (avg_pool2d(images, factor) if factor > 1 else images).float().cpu()
