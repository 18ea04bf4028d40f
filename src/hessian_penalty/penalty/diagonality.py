"""How far Hessians are from diagonal, in measures that do not change with the scale of G."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.hessians import hessian_entries
from hessian_penalty.penalty.settings import PenaltySettings

SMALLEST_MEAN = 1e-8  # published with the measure: added to the mean off the diagonal, against a division by zero


class Diagonality(NamedTuple):
    """Fraction of Hessians whose largest entry is on the diagonal, and the mean ratio of diagonal to off-diagonal."""

    fraction: float
    ratio: float


class EntryMagnitudes:
    """What the diagonality of a batch's elements is made of: largest entries and their sums, gathered entry by entry.

    It holds four numbers an element, however many entries there are. Entries are those of one triangle, as
    `hessian_entries` yields them.
    """

    def __init__(self) -> None:
        self._largest: dict[bool, Tensor] = {}  # on (True) and off the diagonal, of shape (batch, *output)
        self._sums: dict[bool, Tensor] = {}
        self._counts = {True: 0, False: 0}

    def add(self, i: int, j: int, values: Float[Tensor, "batch *output"]) -> None:
        """Take the entry in row i, column j of every element."""
        magnitudes, on = values.abs(), i == j
        self._largest[on] = torch.maximum(self._largest[on], magnitudes) if on in self._largest else magnitudes
        self._sums[on] = self._sums[on] + magnitudes if on in self._sums else magnitudes
        self._counts[on] += 1

    def diagonality(self) -> Diagonality:
        """Fraction and mean ratio over the elements; entries both on and off the diagonal must have come."""
        on, off = (self._sums[place] / self._counts[place] for place in (True, False))
        fraction = (self._largest[True] >= self._largest[False]).double().mean()
        return Diagonality(float(fraction), float((on / (off + SMALLEST_MEAN)).double().mean()))


def diagonality(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    basis: Float[Tensor, "count latent"] | None = None,
    method: str = "differences",
    chunk_size: int | None = None,
    **conditions: Any,
) -> Diagonality:
    r"""Measure how diagonal the Hessians of the output elements at the given latents are.

    Over all samples and elements p, whose n × n Hessians are $H$,

    $$\mathrm{fraction} = \mathrm{mean}_p \left[\max_i |H_{ii}| \ge \max_{i \ne j} |H_{ij}|\right], \qquad
      \mathrm{ratio} = \mathrm{mean}_p \frac{\frac1n \sum_i |H_{ii}|}
      {\frac1{n(n-1)} \sum_{i \ne j} |H_{ij}| + 10^{-8}}.$$

    A tie counts as diagonal. A Hessian of zeros (an element that bends nowhere, such as a constant background) so
    counts as diagonal in the fraction, and as 0 in the ratio; with differences its entries are rounding errors, and
    chance decides. The ratio is a mean without upper bound (up to $10^8$ times the mean of $|H_{ii}|$), so a few
    separable elements can make up all of it. A sum of functions of one latent each has fraction 1, a product of two
    latents fraction 0 and ratio 0.

    Args:
        G: the generator; it returns one tensor.
        z: latents, at least two of them; the published values are over 100 samples.
        epsilon: step.
        basis: directions to differentiate along, in rows, at least two; None takes the coordinates.
        method: "differences" or "autodiff", which misses kinks (see `hessian_entries`).
        chunk_size: most rows (points times samples) in one pass, at least one batch; None is one batch.
        conditions: further arguments of G; tensors whose first dimension is the batch follow the samples.

    Raises:
        ValueError: a single direction, which has no off-diagonal entry; and those of `hessian_entries`.
        TypeError, NotImplementedError: those of `hessian_entries`.

    >>> G = lambda z: torch.stack((z[:, 0] * z[:, 1], z[:, 0] ** 2 + z[:, 1] ** 2 + z[:, 0] * z[:, 1]), dim=1)
    >>> found = diagonality(G, torch.zeros(1, 2, dtype=torch.float64))  # [[0, 1], [1, 0]] and [[2, 1], [1, 2]]
    >>> found.fraction, round(found.ratio, 6)
    (0.5, 1.0)
    """
    n = z.shape[-1] if basis is None else basis.shape[0]
    if n == 1:
        raise ValueError(
            "`diagonality` compares entries on and off the diagonal, so it needs at least 2 directions, got 1; give "
            "`z` more latents, or `basis` more rows."
        )
    entries = hessian_entries(G, z, epsilon=epsilon, basis=basis, method=method, chunk_size=chunk_size, **conditions)
    magnitudes = EntryMagnitudes()
    for i, j, values in entries:
        magnitudes.add(i, j, values)
    return magnitudes.diagonality()


def off_diagonal_share(energy: Float[Tensor, "n n"]) -> float:
    r"""Return the share of the squared Hessian entries that lies off the diagonal.

    $$\sum_{i \ne j} E_{ij} \Big/ \sum_{ij} E_{ij} \in [0, 1],$$

    0 where no latent changes what another does. A generator scaled down by c has the same share, while its penalty
    falls by $c^2$. The share of a matrix of zeros is 0.

    Args:
        energy: mean squared Hessian entries, as `hessian_energy` gives.

    >>> off_diagonal_share(torch.tensor([[3.0, 1.0], [1.0, 3.0]]))
    0.25
    """
    total = float(energy.sum())
    return float(energy.sum() - energy.diagonal().sum()) / total if total > 0 else 0.0
