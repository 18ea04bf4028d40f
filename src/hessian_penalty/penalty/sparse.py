"""The max reduction with its gradient taken through the samples that hold the maxima only."""

import math
from itertools import chain
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.elements import check_finite
from hessian_penalty.penalty.evaluation import ROUNDING_ALLOWANCE
from hessian_penalty.penalty.form import Corners
from hessian_penalty.penalty.layers import DetachedLayerError

RELATIVE_TOLERANCE = 1e-3


class NotSparseError(Exception):
    """The sparse gradient cannot be had for this G; its text says why."""


def sparse_maxima(corners: Corners, chunk_size: int | None = None) -> list[Float[Tensor, ""]]:
    r"""Return the largest element penalty of every output of G, differentiable.

    Only one element of one sample carries the gradient of a maximum. So all corners are evaluated without a graph, and
    then those samples alone (at most one for each output) once more with it, as far as the output that each is needed
    for. Value and gradient are those of the dense form whenever the samples of a batch do not influence each other and
    the maximum is unique. That is checked: the second evaluation has to give the same maxima, which it does not with
    batch normalisation in training mode, say. Nor can it where G draws random numbers, of which one sample alone would
    not get its own.

    The two maxima $a$, $b$ may differ by $10^{-3}$ relative plus rounding, for which the roots are compared:
    $|\sqrt a - \sqrt b| \le \tfrac12 10^{-3} \sqrt b + 32 r$ with r the rounding of the form; that of a second
    difference is $u \max|G| / \epsilon^2$ with u the unit roundoff.

    Raises:
        NotSparseError: there is no such gradient.
        ValueError: an output is not finite, or G is not a function of z.
    """
    form, passes = corners.form, corners.passes
    with torch.no_grad():
        outputs = corners.outputs(chunk_size=chunk_size)
        first = next(outputs)
        if passes.draws:
            raise NotSparseError("G draws random numbers, which one sample alone would not get")
        outputs = chain([first], outputs)
        del first
        peaks = [_peak(corners, gathered, index) for index, gathered in enumerate(form.gather(outputs, corners.k))]
    try:
        maxima = [of_output for _, of_output in sorted(_repeat(corners, peaks, chunk_size).items())]
    except (torch.OutOfMemoryError, DetachedLayerError):
        raise
    except (RuntimeError, ValueError, IndexError) as error:  # with all samples G ran
        raise NotSparseError(
            f"G does not run for some samples of the batch alone ({str(error).splitlines()[0]}); if it holds tensors "
            "of the whole batch, pass them as keyword arguments"
        ) from error
    doubtful = [
        index
        for index, (maximum, peak) in enumerate(zip(maxima, peaks, strict=True))
        if _distance(maximum, peak) > 0.5 * RELATIVE_TOLERANCE * math.sqrt(peak.value)
    ]
    if doubtful:
        with torch.no_grad():
            two = list(passes.at(corners.points[:2], require_function=True))
        for index in doubtful:
            rounding = ROUNDING_ALLOWANCE * corners.rounding([outputs[index] for outputs in two])
            allowed = 0.5 * RELATIVE_TOLERANCE * math.sqrt(peaks[index].value) + rounding
            if _distance(maxima[index], peaks[index]) > allowed:
                raise NotSparseError(
                    "the samples of a batch influence each other in G (batch normalisation in training mode, minibatch "
                    "statistics?)"
                )
    return maxima


def _repeat(corners: Corners, peaks: list["_Peak"], chunk_size: int | None) -> dict[int, Tensor]:
    """Return the maximum of every output with its graph, from passes that end where nothing more is needed."""
    deepest = {peak.sample: index for index, peak in enumerate(peaks)}  # the last output that a sample is needed for
    maxima = {}
    for last in sorted(set(deepest.values())):
        samples = [sample for sample, index in deepest.items() if index == last]
        rows = torch.tensor(samples, device=corners.points.device)
        outputs = corners.outputs(
            chunk_size=chunk_size or corners.points.shape[1],  # by default no more rows in a pass than before
            rows=rows,
            most_outputs=last + 1,
        )
        for index, gathered in enumerate(corners.form.gather(outputs, corners.k)):
            if peaks[index].sample in samples:
                row = samples.index(peaks[index].sample)
                of_sample = [part[row : row + 1] for part in gathered]
                maxima[index] = corners.elements(of_sample).max()
    return maxima


class _Peak(NamedTuple):
    """The largest element penalty of one output: in which sample, and how large."""

    sample: int
    value: float


def _peak(corners: Corners, gathered: list[Tensor], index: int) -> _Peak:
    for part in gathered:
        check_finite(part, index)
    elements = corners.elements(gathered)
    value, sample = elements.reshape(len(elements), -1).amax(dim=1).max(dim=0)
    return _Peak(int(sample), float(value))


def _distance(maximum: Tensor, peak: _Peak) -> float:
    return abs(math.sqrt(maximum.item()) - math.sqrt(peak.value))
