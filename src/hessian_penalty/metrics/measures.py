"""Everything measured about one generator, as one record: what each latent learned, and at what quality."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.errors import LARGEST_SEED, check_number
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.metrics.activeness import activeness, activeness_published, effective_latents
from hessian_penalty.metrics.frechet import FrechetDistance
from hessian_penalty.metrics.interactions import hessian_statistics
from hessian_penalty.penalty.diagonality import off_diagonal_share


@dataclass(frozen=True)
class MeasureProtocol:
    """How many samples each measure takes; part of every result.

    Args:
        activeness_samples: latents at which activeness is measured.
        hessian_samples: latents at which whole Hessians are measured.
        frechet_images: generated images for the Fréchet distance.
        batch_size: latents a pass; bounds memory.
        seed: of all draws.
    """

    activeness_samples: int = 300
    hessian_samples: int = 64
    frechet_images: int = 4000
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("activeness_samples", "hessian_samples", "frechet_images", "batch_size"):
            check_number(name, getattr(self, name), 2)
        check_number("seed", self.seed, 0, LARGEST_SEED)

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Measures:
    """What was measured. Lists are in the order of the latents.

    Args:
        activeness: Mean(Var) with z_i ~ N(0, 1).
        activeness_published: with z_i in -2, 0, 2.
        effective_latents: (Σa)² / Σa² of `activeness`.
        off_diagonal_share: of all squared Hessian entries at the images.
        hessian: mean |H_ij|, n×n.
        frechet: distance to the data; None where there was no data.
        extractor: whose features the distance uses.
        protocol: numbers of samples.
    """

    activeness: tuple[float, ...]
    activeness_published: tuple[float, ...]
    effective_latents: float
    off_diagonal_share: float
    hessian: tuple[tuple[float, ...], ...]
    frechet: float | None
    extractor: str | None
    protocol: MeasureProtocol

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)


@torch.no_grad()
def generated_batches(G: Generator, count: int, batch_size: int, rng: torch.Generator) -> Iterator[Tensor]:
    """`count` random images in batches."""
    for start in range(0, count, batch_size):
        yield G(G.sample_latents(min(batch_size, count - start), rng))


def measure(G: Generator, protocol: MeasureProtocol, distance: FrechetDistance | None = None) -> Measures:
    """Measure a generator; equal seeds give equal samples, so that models compare on the same draws.

    Args:
        distance: to the data; None leaves the Fréchet distance out.
    """

    def rng(stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(protocol.seed * 1000 + stream)

    active = activeness(G, samples=protocol.activeness_samples, batch_size=protocol.batch_size, rng=rng(0))
    published = activeness_published(G, samples=protocol.activeness_samples, batch_size=protocol.batch_size, rng=rng(1))
    z = G.sample_latents(protocol.hessian_samples, rng(2))
    energy, magnitude = hessian_statistics(G, z, batch_size=protocol.batch_size)
    frechet = None
    if distance is not None:
        frechet = distance(generated_batches(G, protocol.frechet_images, protocol.batch_size, rng(3)))
    return Measures(
        activeness=tuple(active.tolist()),
        activeness_published=tuple(published.tolist()),
        effective_latents=effective_latents(active),
        off_diagonal_share=off_diagonal_share(energy),
        hessian=tuple(tuple(row) for row in magnitude.tolist()),
        frechet=frechet,
        extractor=distance.name if distance else None,
        protocol=protocol,
    )
