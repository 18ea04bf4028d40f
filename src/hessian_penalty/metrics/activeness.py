"""Activeness: how much the images change with each latent component."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.generators.protocol import Generator
from hessian_penalty.penalty.conditions import Conditions
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.replay import noise_of

PUBLISHED_VALUES = (-2.0, 0.0, 2.0)


def _mean_variance(G: Generator, points: Tensor, batch_size: int, conditions: Mapping[str, Any]) -> Tensor:
    """Unbiased variance over the values of one component, averaged over samples and elements.

    Args:
        points: (values, samples, latent).
        conditions: tensors with one entry for each sample follow it.
    """
    values, samples, _ = points.shape
    of_samples = Conditions.for_batch(conditions, samples)
    total = torch.zeros((), dtype=torch.float64)
    for rows in torch.arange(samples, device=points.device).split(max(1, batch_size // values)):
        chunk = points[:, rows]
        chosen = of_samples.select(rows)
        passes = Passes(Evaluator(G), chunk[0], chosen, noise_of(G, chosen, chunk[0]))
        images = torch.stack([image for (image,) in passes.at(chunk, chunk_size=batch_size)])  # (values, B, C, H, W)
        squares = (images - images.mean(dim=0)).square_()  # ten times faster than torch.var on a CPU
        variances = squares.flatten(2).mean(dim=2).sum(dim=0) / (values - 1)  # (B,)
        total += variances.cpu().sum(dtype=torch.float64)
    return total / samples


@torch.no_grad()
def activeness(
    G: Generator,
    *,
    samples: int = 300,
    values: int = 4,
    basis: Float[Tensor, "count latent"] | None = None,
    batch_size: int = 64,
    rng: torch.Generator | None = None,
    **conditions: Any,
) -> Float[Tensor, " count"]:
    r"""Activeness of every component: :math:`\mathrm{Mean}(\mathrm{Var}_{z_i}(G(z)))` with :math:`z_i \sim N(0, 1)`.

    The unbiased variance of each pixel as component i is redrawn and the others stay, averaged over pixels, channels
    and samples. 0 means that the component does nothing; images lie in [-1, 1], so that 0.01 is a standard deviation
    of 0.1, a twentieth of the range. All components see the same samples and draws.

    Source: Peebles et al., ECCV 2020, §4.2 (their figures use three fixed values: `activeness_published`).

    Args:
        G: the generator, used as it is.
        samples: latents at which the variance is taken.
        values: draws of the component a sample, at least 2.
        basis: unit rows to move along instead of the coordinates.
        batch_size: latents a pass; bounds memory.
        conditions: further arguments of G; tensors with one entry for each of the samples follow them.

    Returns:
        float64, on the CPU: one value a component or row of `basis`.
    """
    z = G.sample_latents(samples, rng)
    draws = torch.randn(samples, values, generator=rng, device=rng.device if rng else z.device).to(z)
    rows = torch.eye(G.latent_dim, dtype=z.dtype, device=z.device) if basis is None else basis.to(z)
    found = []
    for row in rows:
        projection = z @ row  # (samples,)
        points = z + (draws.T - projection)[:, :, None] * row
        found.append(_mean_variance(G, points, batch_size, conditions))
    return torch.stack(found)


@contextlib.contextmanager
def _normalized_outside(G: Any, wanted: bool) -> Iterator[bool]:
    """Switch a generator's own latent normalisation off for a while, where it has one that is on."""
    active = wanted and bool(getattr(G, "normalize_latent", False))
    if active:
        G.normalize_latent = False
    try:
        yield active
    finally:
        if active:
            G.normalize_latent = True


@torch.no_grad()
def activeness_published(
    G: Generator,
    *,
    samples: int = 300,
    batch_size: int = 64,
    rng: torch.Generator | None = None,
    keep_normalization: bool = False,
    **conditions: Any,
) -> Float[Tensor, " latent"]:
    """Activeness as in the published figures: each pixel's unbiased variance as z_i takes -2, 0 and 2.

    Where the generator normalises its latent, z is normalised first, then z_i overwritten, and the generator run with
    its own normalisation off; for few latents (CLEVR-U) the published figures leave it on: `keep_normalization`.
    """
    z = G.sample_latents(samples, rng)
    with _normalized_outside(G, not keep_normalization) as outside:
        if outside:
            z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        found = []
        for i in range(G.latent_dim):
            points = z.repeat(len(PUBLISHED_VALUES), 1, 1)
            points[:, :, i] = torch.tensor(PUBLISHED_VALUES, dtype=z.dtype, device=z.device)[:, None]
            found.append(_mean_variance(G, points, batch_size, conditions))
    return torch.stack(found)


def effective_latents(activeness: Float[Tensor, " latent"]) -> float:
    r"""Effective number of active components, :math:`(\sum a)^2 / \sum a^2`, in [1, n]; 0 where none is active.

    >>> effective_latents(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    2.0
    """
    total = float(activeness.sum())
    return total**2 / float(activeness.square().sum()) if total > 0 else 0.0
