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
from hessian_penalty.penalty.replay import Replay


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

    Where G normalises its latent of n components, :math:`x = z \sqrt{n} / \lVert z \rVert`, the m that are kept would
    come out longer by about :math:`\sqrt{n/m}`, and images be more extreme than any of G. So a copy normalises them to
    the spread that they had, :math:`x = w \sqrt{m} / \lVert w \rVert`. A wrapper cannot, as it sees no more than G.

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
    reduced = generator_along(G, kept, conditions, exact=False)
    return reduced, image_change(G, reduced, kept, rng=rng, samples=samples, batch_size=batch_size, **conditions)


@torch.no_grad()
def image_change(
    G: Callable[..., Any],
    reduced: Callable[..., Any],
    kept: Float[Tensor, "keep latent"],
    *,
    rng: torch.Generator,
    samples: int = 256,
    batch_size: int = 64,
    **conditions: Any,
) -> ImageChange:
    r"""Compare G(z) with :math:`G'(z D^T)` of a generator of fewer latents, and with G of another latent.

    All three see the same conditions and the same random numbers.

    >>> G = lambda z: z[:, :, None, None]
    >>> image_change(G, G, torch.eye(2), rng=torch.Generator().manual_seed(0)).mean
    0.0
    """
    generator = generator_of(G, kept)
    space = Space(generator, torch.eye(generator.latent_dim, dtype=torch.float64), conditions)
    z, drawn = space.sample(samples, rng)
    z = in_precision_of(generator, z)
    rows = kept.to(z)
    points = torch.stack([z, z.roll(1, dims=0)])  # (2, samples, latent)
    fewer = Space(generator_of(reduced, torch.eye(len(kept))), torch.eye(len(kept), dtype=torch.float64), conditions)
    of_samples = Conditions.for_batch(drawn, samples)
    changes, distances = [], []
    for part in torch.arange(samples).split(batch_size):
        at, given = part.to(z.device), of_samples.select(part)
        first, second = (Replay(one.G, given, z.device).state() for one in (space, fewer))  # the same random numbers
        original, other = (image.double() for image in space.images(points[:, at], given, start=first))
        (changed,) = fewer.images((z[at] @ rows.T)[None], given, start=second)
        changes.append(_root_mean_square(changed.double() - original))
        distances.append(_root_mean_square(other - original))
    change, distance = torch.cat(changes), torch.cat(distances).mean().item()
    mean = change.mean().item()
    return ImageChange(mean, change.max().item(), mean / distance if distance > 0 else 0.0)


def _root_mean_square(images: Float[Tensor, "batch *image"]) -> Float[Tensor, " batch"]:
    return images.flatten(1).square().mean(dim=1).sqrt()
