"""Disentanglement, completeness and informativeness, from boosted trees that predict the factors from the latents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.metrics.mutual_information import Latents, entitled_latents, grouped_columns, latent_columns

MOST_TRAINING_IMAGES = 4000
TREES = {"n_estimators": 50, "max_depth": 3, "learning_rate": 0.2, "subsample": 0.5}


class Importances(NamedTuple):
    """Importance of each latent for each factor, columns summing to 1 or 0, and how well each factor is predicted."""

    matrix: Float[np.ndarray, "latents factors"]
    informativeness: Float[np.ndarray, " factors"]


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each in [0, 1]."""

    disentanglement: float
    completeness: float
    informativeness: float


def factor_importances(latents: Latents, factors: Sequence[Factor], *, seed: int = 0) -> Importances:
    """Train gradient-boosted trees from the latents to each factor.

    Half of the images, at most 4,000, train; as many others test. The importance of a latent is its share of the
    reduction of the training loss. Informativeness is held out: $R^2$ of a continuous factor; mean $R^2$ of cosine and
    sine of a circular one, whose importances are averaged too; of a categorical one the share of the errors avoided
    that the most frequent training category would make. Worse than that guess is 0, and so is a factor that does not
    vary, with importances of 0.

    Args:
        latents: those of the images.
        factors: their values at the images.
        seed: of the halves and the trees.

    Raises:
        UserError: see `latent_columns`.
    """
    columns = latent_columns(latents, factors)
    order = np.random.default_rng(seed).permutation(len(columns))
    count = min(len(order) // 2, MOST_TRAINING_IMAGES)
    train, test = order[:count], order[count : 2 * count]
    matrix, scores = [], []
    for factor in factors:
        fits = [_fit(columns, target, train, test, factor.kind == "categorical", seed) for target in _targets(factor)]
        matrix.append(np.mean([importances for importances, _ in fits], axis=0))
        scores.append(np.mean([score for _, score in fits]))
    return Importances(np.stack(matrix, axis=1), np.array(scores))


def dci(importances: Importances, factors: Sequence[Factor], groups: Sequence[Sequence[str]] | None = None) -> DCI:
    r"""Scores of an importance matrix R, (n latents) × (K factors).

    $$D = \sum_i \rho_i \Big(1 - H_K\Big(\frac{R_{i\cdot}}{\sum_j R_{ij}}\Big)\Big), \quad
      \rho_i = \frac{\sum_j R_{ij}}{\sum_{ij} R_{ij}}, \qquad
      C = \mathrm{mean}_j \Big(1 - H_n\Big(\frac{R_{\cdot j}}{\sum_i R_{ij}}\Big)\Big),$$

    with $H_b$ the entropy with logarithms to base b, the number of entries; I is the mean informativeness of the
    factors. With one factor nothing can be mixed, and D = 1. A factor that is not predicted at all adds 0 to C and I.
    One that is predicted badly has importances all the same, of noise: read D and C beside I.
    A random rotation of a perfect code does not score 0: its squared entries as importances give
    $D \approx 1 - (\psi(K/2 + 1) - \psi(3/2)) / \log K$, 0.36 with four factors, and C the same of n, 0.26 with 12.

    With `groups`, the columns of a group are averaged first, so that it counts as one factor and K is the number of
    groups. In C the k largest entries of a group entitled to k latents are added first, which leaves base n - k + 1: k
    latents that share a group equally are complete. k counts one for a factor and two for a circular one. Source:
    Eastwood & Williams, ICLR 2018, "A framework for the quantitative evaluation of disentangled representations".

    Args:
        importances: as `factor_importances` gives.
        factors: those of its columns.
        groups: names of the factors in each group, a factor in no group being one by itself; None takes the factors
            one by one, each entitled to one latent.

    >>> factors = [Factor(name, "continuous", np.zeros(1)) for name in ("x", "y", "size")]
    >>> turned = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1.0]])
    >>> strict = dci(Importances(turned, np.ones(3)), factors)
    >>> round(strict.disentanglement, 3), round(strict.completeness, 3)
    (0.579, 0.579)
    >>> dci(Importances(turned, np.ones(3)), factors, [("x", "y")])
    DCI(disentanglement=1.0, completeness=1.0, informativeness=1.0)

    Raises:
        UserError: see `grouped_columns`.
    """
    alone = groups is None
    members = [[column] for column in range(len(factors))] if groups is None else grouped_columns(factors, groups)
    entitled = [1 if alone else entitled_latents([factors[column] for column in group]) for group in members]
    merged = np.stack([importances.matrix[:, group].mean(axis=1) for group in members], axis=1)  # (latents, groups)
    weights = merged.sum(axis=1)
    disentangled = float(weights @ np.array([_concentration(row) for row in merged]))
    return DCI(
        disentangled / float(weights.sum()) if weights.any() else 0.0,
        float(np.mean([_concentration(_pool(column, k)) for column, k in zip(merged.T, entitled, strict=True)])),
        float(importances.informativeness.mean()),
    )


def _targets(factor: Factor) -> list[Shaped[np.ndarray, " images"]]:
    if factor.kind == "categorical":
        return [np.unique(factor.values, return_inverse=True)[1]]
    values = factor.values.astype(np.float64)
    return [np.cos(2 * np.pi * values), np.sin(2 * np.pi * values)] if factor.kind == "circular" else [values]


def _fit(
    columns: Float[np.ndarray, "images latents"],
    target: Shaped[np.ndarray, " images"],
    train: Int[np.ndarray, " train"],
    test: Int[np.ndarray, " test"],
    categorical: bool,
    seed: int,
) -> tuple[Float[np.ndarray, " latents"], float]:
    """Importances and held-out score of one target."""
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor  # takes a second to import

    if np.ptp(target[train]) == 0:
        return np.zeros(columns.shape[1]), 0.0
    model: Any = (GradientBoostingClassifier if categorical else GradientBoostingRegressor)(**TREES, random_state=seed)
    model.fit(columns[train], target[train])
    if categorical:
        guess: Any = np.bincount(target[train]).argmax()
        losses = [float((target[test] != found).mean()) for found in (model.predict(columns[test]), guess)]
    else:
        guess = target[test].mean()
        losses = [float(np.square(target[test] - found).mean()) for found in (model.predict(columns[test]), guess)]
    score = max(1 - losses[0] / losses[1], 0.0) if losses[1] > 0 else 0.0
    return np.asarray(model.feature_importances_, dtype=np.float64), score


def _pool(weights: Float[np.ndarray, " latents"], count: int) -> Float[np.ndarray, " fewer"]:
    """Add the `count` largest into one entry."""
    ordered = np.sort(weights)[::-1]
    return np.concatenate([ordered[:count].sum(keepdims=True), ordered[count:]])


def _concentration(weights: Float[np.ndarray, " entries"]) -> float:
    """1 where one entry has all the weight, 0 where all have the same or none has any."""
    total = weights.sum()
    if total <= 0:
        return 0.0
    shares = weights[weights > 0] / total
    return 1.0 + float(shares @ np.log(shares)) / np.log(len(weights)) if len(weights) > 1 else 1.0
