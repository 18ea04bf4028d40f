"""The max reduction with its gradient taken through the samples that hold the maxima only."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.conditions import Conditions
from hessian_penalty.penalty.elements import element_penalties, pair_sums
from hessian_penalty.penalty.evaluation import Evaluator, check_finite, evaluate_corners
from hessian_penalty.penalty.probes import corner_points

RELATIVE_TOLERANCE = 1e-3
ROUNDING_ALLOWANCE = 32.0  # roundings of a deep network, whose kernels differ with the number of rows


def sparse_maxima(
    evaluate: Evaluator,
    z: Float[Tensor, "batch *latent"],
    steps: Float[Tensor, "k batch *latent"],
    epsilon: float,
    conditions: Conditions,
    chunk_size: int | None = None,
) -> list[Float[Tensor, ""]] | None:
    r"""Return the largest element penalty of every output of G, differentiable, or None if that cannot be had this way.

    Only one element of one sample carries the gradient of a maximum. So all corners are evaluated without a graph, and
    then those samples alone (at most one for each output) once more with it. Value and gradient are those of the dense
    form whenever the samples of a batch do not influence each other and the maximum is unique. That is checked: where
    the second evaluation does not give the same maxima (batch normalisation in training mode, say), the answer is None.

    The two maxima $a$, $b$ may differ by $10^{-3}$ relative plus rounding, for which the roots are compared, as the
    penalty is the square of a second difference:
    $|\sqrt a - \sqrt b| \le \tfrac12 10^{-3} \sqrt b + 32\, u \max|G| / \epsilon^2$, with u the unit roundoff.

    >>> steps = 0.1 * torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]])
    >>> evaluate = Evaluator(lambda z: z[:, 0] * z[:, 1], {})
    >>> sparse_maxima(evaluate, torch.ones(1, 2), steps, 0.1, Conditions({}, {}))[0].round(decimals=3)
    tensor(4.)
    """
    with torch.no_grad():
        sums = pair_sums(evaluate_corners(evaluate, corner_points(z, steps), conditions, chunk_size))
        peaks = [_peak(of_output, epsilon, index) for index, of_output in enumerate(sums)]
        del sums
    samples = sorted({peak.sample for peak in peaks})
    rows = torch.tensor(samples, device=z.device)
    again = pair_sums(
        evaluate_corners(
            evaluate,
            corner_points(z[rows], steps[:, rows]),
            conditions.select(rows),
            chunk_size or z.shape[0],  # by default no more rows in a pass than before
        )
    )
    maxima = [
        element_penalties(of_output[:, samples.index(peak.sample)].unsqueeze(1), epsilon).max()
        for of_output, peak in zip(again, peaks, strict=True)
    ]
    agree = (_agrees(maximum, peak, epsilon) for maximum, peak in zip(maxima, peaks, strict=True))
    return maxima if all(agree) else None


class _Peak(NamedTuple):
    """The largest element penalty of one output: in which sample, how large, and the output's largest magnitude."""

    sample: int
    value: float
    magnitude: float


def _peak(sums: Tensor, epsilon: float, index: int) -> _Peak:
    check_finite(sums, index)
    of_samples = element_penalties(sums, epsilon).reshape(sums.shape[1], -1).amax(dim=1)  # (batch,)
    value, sample = of_samples.max(dim=0)
    return _Peak(int(sample), float(value), max(-float(sums.min()), float(sums.max())) / 2)


def _agrees(maximum: Tensor, peak: _Peak, epsilon: float) -> bool:
    unit_roundoff = torch.finfo(maximum.dtype).eps / 2
    rounding = ROUNDING_ALLOWANCE * unit_roundoff * peak.magnitude / epsilon**2
    root = math.sqrt(peak.value)
    return abs(math.sqrt(maximum.item()) - root) <= 0.5 * RELATIVE_TOLERANCE * root + rounding
