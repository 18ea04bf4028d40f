"""Everything measured about one generator, as one record: what each latent learned, and at what quality."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.generators.protocol import Generator
from hessian_penalty.metrics.activeness import activeness, activeness_published, effective_latents
from hessian_penalty.metrics.factor_audit import FactorAudit, factor_audit
from hessian_penalty.metrics.features import image_features
from hessian_penalty.metrics.frechet import frechet_distance
from hessian_penalty.metrics.instruments import Instruments
from hessian_penalty.metrics.interactions import hessian_statistics
from hessian_penalty.metrics.kernel_distance import kernel_distance
from hessian_penalty.metrics.path_length import path_length
from hessian_penalty.metrics.predictability import variation_predictability
from hessian_penalty.metrics.progress import Progress, told
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.penalty.diagonality import off_diagonal_share


@dataclass(frozen=True)
class Measures:
    """What was measured; None where a measure was left out or could not be taken. Lists are in the latents' order.

    Args:
        protocol: numbers of samples.
        activeness: Mean(Var) with z_i ~ N(0, 1).
        activeness_published: with z_i in -2, 0, 2.
        effective_latents: (Σa)² / Σa² of `activeness`.
        penalty: L_H at the images, mean over samples and elements.
        off_diagonal_share: of all squared Hessian entries at the images.
        diagonal_fraction: of Hessians whose largest entry lies on the diagonal.
        diagonal_ratio: mean entry on the diagonal over mean entry off it.
        hessian: mean |H_ij|, n×n.
        frechet: distance to the data.
        kernel: kernel distance to the data (KID with Inception-v3).
        kernel_deviation: its standard deviation over subsets.
        extractor: whose features the distances use.
        path_length: perceptual path length in z.
        perceptual_distance: of the path length.
        predictability: held-out accuracy of telling which latent changed, mean of the repeats.
        predictability_repeats: each of them.
        audit: latents against ground-truth factors.
    """

    protocol: MeasureProtocol
    activeness: tuple[float, ...]
    activeness_published: tuple[float, ...]
    effective_latents: float
    penalty: float
    off_diagonal_share: float
    hessian: tuple[tuple[float, ...], ...]
    diagonal_fraction: float | None = None
    diagonal_ratio: float | None = None
    frechet: float | None = None
    kernel: float | None = None
    kernel_deviation: float | None = None
    extractor: str | None = None
    path_length: float | None = None
    perceptual_distance: str | None = None
    predictability: float | None = None
    predictability_repeats: tuple[float, ...] | None = None
    audit: FactorAudit | None = None

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)


@torch.no_grad()
def generated_batches(
    G: Generator, count: int, batch_size: int, rng: torch.Generator, progress: Progress | None = None
) -> Iterator[Tensor]:
    """`count` random images in batches."""
    for start in told(range(0, count, batch_size), progress):
        yield G(G.sample_latents(min(batch_size, count - start), rng))


@dataclass(frozen=True)
class Part:
    """Measures that are taken together.

    Args:
        gives: fields of `Measures`.
        settings: fields of `MeasureProtocol` on which they depend, besides `batch_size` (which changes no value beyond
            rounding) and `seed`.
        of_data: whether they depend on the data set.
        take: takes them and tells how far it is; nothing where the protocol leaves them out or data is lacking.
    """

    gives: tuple[str, ...]
    settings: tuple[str, ...]
    of_data: bool
    take: Callable[[Generator, Instruments, Progress | None], dict[str, Any]]


def _rng(protocol: MeasureProtocol, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(protocol.seed * 1000 + stream)


def _activeness(G: Generator, tools: Instruments, progress: Progress | None) -> dict[str, Any]:
    sizes: Any = {"samples": tools.protocol.activeness_samples, "batch_size": tools.protocol.batch_size}
    active = activeness(G, **sizes, rng=_rng(tools.protocol, 0))
    published = activeness_published(G, **sizes, rng=_rng(tools.protocol, 1))
    return {
        "activeness": tuple(active.tolist()),
        "activeness_published": tuple(published.tolist()),
        "effective_latents": effective_latents(active),
    }


def _hessian(G: Generator, tools: Instruments, progress: Progress | None) -> dict[str, Any]:
    z = G.sample_latents(tools.protocol.hessian_samples, _rng(tools.protocol, 2))
    energy, magnitude, diagonality = hessian_statistics(G, z, batch_size=tools.protocol.batch_size)
    return {
        "penalty": float(energy.sum() - energy.diagonal().sum()),
        "off_diagonal_share": off_diagonal_share(energy),
        "diagonal_fraction": diagonality.fraction if diagonality else None,
        "diagonal_ratio": diagonality.ratio if diagonality else None,
        "hessian": tuple(tuple(row) for row in magnitude.tolist()),
    }


def _distances(G: Generator, tools: Instruments, progress: Progress | None) -> dict[str, Any]:
    if tools.reference is None:
        return {}
    protocol = tools.protocol
    batches = generated_batches(G, protocol.frechet_images, protocol.batch_size, _rng(protocol, 3), progress)
    features = image_features(tools.extractor, batches)
    found = {"frechet": frechet_distance(features, tools.reference), "extractor": protocol.extractor}
    if protocol.kernel_subsets:
        kernel = kernel_distance(features, tools.reference, subsets=protocol.kernel_subsets, seed=protocol.seed)
        found |= {"kernel": kernel.mean, "kernel_deviation": kernel.std}
    return found


def _path_length(G: Generator, tools: Instruments, progress: Progress | None) -> dict[str, Any]:
    if tools.distance is None:
        return {}
    protocol = tools.protocol
    sizes: Any = {"pairs": protocol.path_length_pairs, "batch_size": protocol.batch_size}
    found = path_length(G, tools.distance, **sizes, rng=_rng(protocol, 4), progress=progress)
    return {"path_length": found.mean, "perceptual_distance": protocol.perceptual_distance}


def _predictability(G: Generator, tools: Instruments, progress: Progress | None) -> dict[str, Any]:
    protocol = tools.protocol
    if not protocol.predictability_pairs or G.latent_dim < 2:
        return {}
    found = variation_predictability(G, pairs=protocol.predictability_pairs, seed=protocol.seed, progress=progress)
    return {"predictability": found.accuracy, "predictability_repeats": found.accuracies}


@torch.no_grad()
def _audit(G: Generator, tools: Instruments, progress: Progress | None) -> dict[str, Any]:
    if tools.probe is None or G.latent_dim < 2:
        return {}
    z = G.sample_latents(tools.protocol.audit_images, _rng(tools.protocol, 5))
    factors = tools.probe(G(rows) for rows in told(z.split(tools.protocol.batch_size), progress))
    return {"audit": factor_audit(z.cpu(), factors, tools.probe.scores, seed=tools.protocol.seed)}


PARTS = {
    "activeness": Part(
        ("activeness", "activeness_published", "effective_latents"), ("activeness_samples",), False, _activeness
    ),
    "Hessians": Part(
        ("penalty", "off_diagonal_share", "diagonal_fraction", "diagonal_ratio", "hessian"), ("hessian_samples",),
        False, _hessian,
    ),
    "distances": Part(
        ("frechet", "kernel", "kernel_deviation", "extractor"),
        ("frechet_images", "reference_images", "kernel_subsets", "extractor"), True, _distances,
    ),
    "path length": Part(
        ("path_length", "perceptual_distance"), ("path_length_pairs", "path_length_pixels", "perceptual_distance"),
        False, _path_length,
    ),
    "predictability": Part(
        ("predictability", "predictability_repeats"), ("predictability_pairs",), False, _predictability
    ),
    "factor audit": Part(("audit",), ("audit_images",), True, _audit),
}  # fmt: skip


def measure(G: Generator, tools: Instruments) -> Measures:
    """Measure a generator; equal seeds give equal samples, so that models compare on the same draws.

    Args:
        tools: the protocol, and what the data and its networks give.
    """
    found: dict[str, Any] = {}
    for part in PARTS.values():
        found |= part.take(G, tools, None)
    return Measures(tools.protocol, **found)
