"""A generator with fewer latents: those that do nothing left out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.folding import AnyGenerator, generator_along
from hessian_penalty.directions.method import Space, require_conditions
from hessian_penalty.directions.rotated_generator import RotatedGenerator, generator_of, in_precision_of
from hessian_penalty.directions.rotation import require_orthonormal
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.penalty.conditions import Conditions


@dataclass(frozen=True)
class ImageChange:
    """How much images change when the components that are dropped are set to 0.

    Attributes:
        mean: root mean square over an image's elements, averaged over samples; images lie in [-1, 1], so that 2 is
            black to white, and 0.01 half a percent of the range.
        worst: largest over samples.
        relative: mean, divided by the mean root mean square distance of two images of random latents, under the same
            conditions: 1 is another image altogether. 0 where images never differ.
    """

    mean: float
    worst: float
    relative: float


def drop_latents(
    G: AnyGenerator,
    directions: Directions | Float[Tensor, "count latent"],
    keep: int,
    *,
    rng: torch.Generator,
    samples: int = 256,
    batch_size: int = 64,
    **conditions: Any,
) -> tuple[AnyGenerator | RotatedGenerator, ImageChange]:
    r"""The generator with only the first `keep` directions for latents, and what that costs.

    With the first rows D: :math:`G'(w) = G(w D)`, so that :math:`z = w D` and every component of z orthogonal to the
    rows is 0, the mean of N(0, I). `discover` sorts by activeness: what is dropped are the least active directions.

    Where G normalises its latent, :math:`x = z \sqrt{n} / \lVert z \rVert`, dropping components makes the norm
    smaller and the normalisation makes up for it: the components kept come out longer than before, and images
    may change although no weight reads a dropped one. `ImageChange` counts that, and G' does it: its x has norm
    :math:`\sqrt{n}` too.

    A copy of G with fewer inputs of its first layer where that is possible, else a wrapper around G itself; see
    `rotate_generator`.

    Args:
        G: the generator.
        directions: orthonormal rows, those to keep first.
        keep: number of latents of G'.
        rng: of the samples.
        samples: latents at which the change is measured.
        batch_size: latents a pass; bounds memory.
        conditions: further arguments of G; see `discover`.

    Raises:
        UserError: `keep` is out of range, the rows are not orthonormal or do not fit G, or G cannot be evaluated.

    >>> G = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh())
    >>> _ = torch.nn.init.zeros_(G[0].weight[:, 2:])
    >>> reduced, change = drop_latents(G, torch.eye(3), keep=2, rng=torch.Generator().manual_seed(0))
    >>> reduced(torch.zeros(1, 2)).shape, change.mean < 1e-6
    (torch.Size([1, 8]), True)
    """
    matrix = directions.matrix if isinstance(directions, Directions) else directions
    if not 1 <= keep <= len(matrix):
        raise UserError(f"`keep` must lie in [1, {len(matrix)}], the number of directions, got {keep}.")
    kept = matrix[:keep]
    require_orthonormal(kept)
    check_number("samples", samples, 2)
    check_number("batch_size", batch_size, 1)
    require_conditions(generator_of(G, kept), conditions)
    change = image_change(G, kept, rng=rng, samples=samples, batch_size=batch_size, **conditions)
    return generator_along(G, kept, conditions), change


@torch.no_grad()
def image_change(
    G: Callable[..., Any],
    kept: Float[Tensor, "keep latent"],
    *,
    rng: torch.Generator,
    samples: int = 256,
    batch_size: int = 64,
    **conditions: Any,
) -> ImageChange:
    r"""Compare G(z) with :math:`G(z D^T D)` for orthonormal rows D, and with G of another latent.

    All three see the same conditions and the same random numbers in G.

    >>> G = lambda z: z[:, :, None, None]
    >>> image_change(G, torch.eye(2), rng=torch.Generator().manual_seed(0)).mean
    0.0
    """
    generator = generator_of(G, kept)
    space = Space(generator, torch.eye(generator.latent_dim, dtype=torch.float64), conditions)
    z, drawn = space.sample(samples, rng)
    z = in_precision_of(generator, z)
    rows = kept.to(z)
    points = torch.stack([z, z @ rows.T @ rows, z.roll(1, dims=0)])  # (3, samples, latent)
    of_samples = Conditions.for_batch(drawn, samples)
    changes, distances = [], []
    for part in torch.arange(samples).split(batch_size):
        images = space.images(points[:, part.to(z.device)], of_samples.select(part).repeat(1))
        original = next(images).double()
        changed, other = (_root_mean_square(image.double() - original) for image in images)
        changes.append(changed)
        distances.append(other)
    change, distance = torch.cat(changes), torch.cat(distances).mean().item()
    mean = change.mean().item()
    return ImageChange(mean, change.max().item(), mean / distance if distance > 0 else 0.0)


def _root_mean_square(images: Float[Tensor, "batch *image"]) -> Float[Tensor, " batch"]:
    return images.flatten(1).square().mean(dim=1).sqrt()
