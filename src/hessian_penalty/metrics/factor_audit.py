"""The factor audit: which latent carries which ground-truth factor, as a probe sees them, and how cleanly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.dci import dci, factor_importances
from hessian_penalty.metrics.mig import grouped_mig, mig
from hessian_penalty.metrics.mutual_information import (
    Latents,
    entropy,
    factor_cells,
    latent_columns,
    mutual_information_map,
)
from hessian_penalty.metrics.sap import sap

SHUFFLES = 5
DEVIATIONS = 5.0  # above the mean of shuffled latents
SMALLEST_SHARE = 0.08  # of the entropy: below what one of two axes, turned by 45 degrees, has of each (0.1)
STANDS_OUT = 1.5


@dataclass(frozen=True)
class FactorAudit:
    """What the latents of a generator carry. Tuples are in the order of the factors or of the latents.

    Args:
        factors: names.
        probe_scores: how well the probe predicts each factor on held-out data; nothing here is better than these.
        images: how many generated images.
        mutual_information: of each latent with each factor, divided by the factor's entropy, in [0, 1]; (n, factors).
        latent_names: the factor that each latent carries, several joined by " + ", or ""; see `latent_names`.
        mig: mutual information gap.
        mig_grouped: that of groups, x, y together and circular factors in two latents.
        sap: separated attribute predictability.
        dci_disentanglement: of the latents.
        dci_completeness: of the factors.
        dci_informativeness: held-out score of the trees, mean over factors.
        dci_disentanglement_grouped: the same of groups.
        dci_completeness_grouped: the same of groups.
    """

    factors: tuple[str, ...]
    probe_scores: tuple[float, ...]
    images: int
    mutual_information: tuple[tuple[float, ...], ...]
    latent_names: tuple[str, ...]
    mig: float
    mig_grouped: float
    sap: float
    dci_disentanglement: float
    dci_completeness: float
    dci_informativeness: float
    dci_disentanglement_grouped: float
    dci_completeness_grouped: float


def factor_audit(
    latents: Latents, predicted: Sequence[Factor], probe_scores: Mapping[str, float], *, seed: int = 0
) -> FactorAudit:
    """Score the latents against the factors that a probe saw in their images.

    Equal latents, factors and seeds give equal audits. A factor that is the same in all images, as a collapsed
    generator makes it, scores 0 everywhere.

    Args:
        latents: (images, n), of at least 100 images and two latents; scores compare at equal numbers of images.
        predicted: the probe's factors at the images.
        probe_scores: the probe's held-out score of each factor, by name.
        seed: of the halves, the trees, the shuffles and the jitter that breaks ties.

    Raises:
        UserError: `probe_scores` lacks a factor; see also `latent_columns`.
    """
    columns = latent_columns(latents, predicted)
    names = tuple(factor.name for factor in predicted)
    missing = [name for name in names if name not in probe_scores]
    if missing:
        raise UserError(
            f"`probe_scores` must hold a score of every factor, got none of {', '.join(missing)}; give those of the "
            "probe that predicted the factors."
        )
    groups = position_groups(predicted)
    importances = factor_importances(columns, predicted, seed=seed)
    strict, grouped = dci(importances, predicted), dci(importances, predicted, groups)
    information = mutual_information_map(columns, predicted)
    entropies = np.array([entropy(factor_cells([factor])) for factor in predicted])
    normalized = np.clip(information / np.where(entropies > 0, entropies, np.inf), 0, 1)
    return FactorAudit(
        factors=names,
        probe_scores=tuple(float(probe_scores[name]) for name in names),
        images=len(columns),
        mutual_information=tuple(tuple(row) for row in normalized.tolist()),
        latent_names=latent_names(columns, predicted, seed=seed),
        mig=mig(columns, predicted),
        mig_grouped=grouped_mig(columns, predicted, groups, seed=seed),
        sap=sap(columns, predicted, seed=seed),
        dci_disentanglement=strict.disentanglement,
        dci_completeness=strict.completeness,
        dci_informativeness=strict.informativeness,
        dci_disentanglement_grouped=grouped.disentanglement,
        dci_completeness_grouped=grouped.completeness,
    )


def position_groups(factors: Sequence[Factor]) -> tuple[tuple[str, str], ...]:
    """Names of the positions of each object: x and y, x0 and y0, x1 and y1, and so on, where both are continuous.

    The penalty cannot always tell them from two turned axes of the same plane.

    >>> position_groups([Factor(name, "continuous", np.zeros(1)) for name in ("y1", "x1", "size1", "x0")])
    (('x1', 'y1'),)
    """
    names = {factor.name for factor in factors if factor.kind == "continuous"}
    objects = sorted(name[1:] for name in names if name[0] == "x" and (name == "x" or name[1:].isdecimal()))
    return tuple((f"x{suffix}", f"y{suffix}") for suffix in objects if f"y{suffix}" in names)


def latent_names(latents: Latents, factors: Sequence[Factor], *, seed: int = 0) -> tuple[str, ...]:
    """Name each latent after the factors that it carries, or "" where it carries none.

    What counts is the mutual information above that of latents shuffled over the images, which is bias alone, as a
    share of the factor's entropy. A latent carries a factor where this is at least 0.08 and five standard deviations of
    the shuffled ones. Of these the largest gives the name, joined by " + " with those, in the order of the factors,
    that it exceeds less than 1.5 times.

    Raises:
        UserError: see `latent_columns`.
    """
    columns, rng = latent_columns(latents, factors), np.random.default_rng(seed)
    shuffled = np.stack([mutual_information_map(rng.permutation(columns), factors) for _ in range(SHUFFLES)])
    bias, spread = shuffled.mean(axis=(0, 1)), shuffled.std(axis=(0, 1))
    entropies = np.array([entropy(factor_cells([factor])) for factor in factors])
    excess = mutual_information_map(columns, factors) - bias  # (latents, factors)
    shares = np.where(excess >= DEVIATIONS * spread, excess, 0) / np.where(entropies > 0, entropies, np.inf)
    shares[shares < SMALLEST_SHARE] = 0
    names = [factor.name for factor in factors]
    return tuple(
        " + ".join(name for name, share in zip(names, row, strict=True) if share * STANDS_OUT > row.max())
        for row in shares
    )
