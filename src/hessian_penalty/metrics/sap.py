"""Separated attribute predictability: whether one latent alone predicts each factor, and no second one does."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.metrics.mutual_information import Latents, latent_columns


def sap(latents: Latents, factors: Sequence[Factor], *, seed: int = 0) -> float:
    r"""Mean over the factors of the gap between the two latents that predict one best.

    $$\mathrm{SAP} = \mathrm{mean}_j (S_{(1)j} - S_{(2)j}) \in [0, 1],$$

    with $S_{(r)j}$ the r-th largest of `attribute_predictability`. Predictions are linear: of a code that is a bent
    function of its factor the score sees the linear part only. Source: Kumar et al., ICLR 2018, "Variational inference
    of disentangled latent concepts from unlabeled observations".

    Raises:
        UserError: see `latent_columns`.
    """
    scores = np.sort(attribute_predictability(latents, factors, seed=seed), axis=0)
    return float((scores[-1] - scores[-2]).mean())


def attribute_predictability(
    latents: Latents, factors: Sequence[Factor], *, seed: int = 0
) -> Float[np.ndarray, "latents factors"]:
    r"""How well each latent alone predicts each factor, linearly, from 0 (not) to 1.

    A continuous factor: $R^2$ of the linear regression, the squared correlation. A circular one with the angle
    $\varphi$: mean $R^2$ of $\cos\varphi$ and $\sin\varphi$; a latent that holds one of them scores ½. A categorical
    one of c categories: $(A - 1/c) / (1 - 1/c)$ with A the balanced accuracy, on a random half of the images, of
    choosing the category whose mean over the other half is nearest; categories that are not in both halves are left
    out. A latent or a factor that does not vary scores 0.

    Args:
        latents: those of the images.
        factors: their values at the images.
        seed: of the halves.

    Raises:
        UserError: see `latent_columns`.
    """
    columns = latent_columns(latents, factors)
    half = np.random.default_rng(seed).permutation(len(columns)) % 2 == 0
    found = []
    for factor in factors:
        if factor.kind == "categorical":
            found.append(_nearest_mean_score(columns, np.unique(factor.values, return_inverse=True)[1], half))
        elif factor.kind == "circular":
            angles = 2 * np.pi * factor.values.astype(np.float64)
            found.append(
                (_squared_correlation(columns, np.cos(angles)) + _squared_correlation(columns, np.sin(angles))) / 2
            )
        else:
            found.append(_squared_correlation(columns, factor.values.astype(np.float64)))
    return np.stack(found, axis=1)


def _squared_correlation(
    columns: Float[np.ndarray, "images latents"], values: Float[np.ndarray, " images"]
) -> Float[np.ndarray, " latents"]:
    columns, values = columns - columns[0], values - values[0]  # a constant leaves zeros, not rounding errors
    columns, values = columns - columns.mean(axis=0), values - values.mean()
    products = np.square(columns).sum(axis=0) * np.square(values).sum()
    shares: NDArray[np.float64] = np.square(values @ columns) / np.where(products > 0, products, np.inf)
    return shares


def _nearest_mean_score(
    columns: Float[np.ndarray, "images latents"], labels: Int[np.ndarray, " images"], half: Bool[np.ndarray, " images"]
) -> Float[np.ndarray, " latents"]:
    common = np.intersect1d(labels[half], labels[~half])
    if len(common) < 2:
        return np.zeros(columns.shape[1])
    means = np.stack([columns[half & (labels == label)].mean(axis=0) for label in common])  # (categories, latents)
    right = []
    for number, label in enumerate(common):
        distances = np.abs(columns[~half & (labels == label)][:, None] - means)  # (images, categories, latents)
        right.append((distances.argmin(axis=1) == number).mean(axis=0))
    chance = 1 / len(common)
    score: NDArray[np.float64] = np.clip((np.mean(right, axis=0) - chance) / (1 - chance), 0.0, 1.0)
    return score
