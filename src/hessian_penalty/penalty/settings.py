"""The settings of one penalty: every default value is written here, and checked here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from hessian_penalty.penalty.arguments import check_number, check_whole

REDUCTIONS = ("max", "mean", "none")
GRADIENTS = ("auto", "sparse", "dense")


@dataclass(frozen=True)
class PenaltySettings:
    """How a Hessian Penalty is estimated; `hessian_penalty` and `HessianPenalty` take these as keyword arguments.

    Attributes:
        k: number of probes, at least 2.
        epsilon: finite-difference step, in units of z (of the batch's standard deviation with `scale_epsilon`).
        reduction: "max", "mean" or "none" over batch and elements, or a callable from a tensor to a scalar.
        gradient: "dense" differentiates all evaluations, "sparse" only those of the samples that hold the maxima,
            "auto" is sparse for the max reduction and dense otherwise.
        layers: glob pattern or patterns of named modules whose outputs are penalised instead of G's.
        groups: "rows" or labels: count only the pairs of components of the same group; None counts all pairs.
        chunk_size: most rows that go through G in one pass; None passes one corner (one batch) at a time.
        scale_free: divide each output's penalty by the variance of that output over the batch, with its gradient.
        scale_epsilon: step by epsilon times the standard deviation of each latent component over the batch.

    Raises:
        ValueError: for a value outside these.
        TypeError: for a number of another type.

    >>> PenaltySettings(k=4).epsilon
    0.1
    """

    k: int = 2
    epsilon: float = 0.1
    reduction: str | Callable[[Tensor], Tensor] = "max"
    gradient: str = "auto"
    layers: str | Sequence[str] | None = None
    groups: str | Tensor | None = None
    chunk_size: int | None = None
    scale_free: bool = False
    scale_epsilon: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work, before anything is evaluated."""
        check_whole("k", self.k)
        if self.k < 2:
            raise ValueError(f"`k` must be at least 2 to estimate a variance, got {self.k}.")
        check_epsilon(self.epsilon)
        check_chunk_size(self.chunk_size)
        if not callable(self.reduction) and self.reduction not in REDUCTIONS:
            raise ValueError(
                f"`reduction` must be one of {', '.join(map(repr, REDUCTIONS))} or a callable that maps a tensor to a "
                f"scalar, got {self.reduction!r}."
            )
        if self.gradient not in GRADIENTS:
            raise ValueError(
                f"`gradient` must be one of {', '.join(map(repr, GRADIENTS))}, got {self.gradient!r}; use 'auto' if in "
                "doubt."
            )
        if self.gradient == "sparse" and self.reduction != "max":
            raise ValueError(
                "`gradient='sparse'` needs `reduction='max'`, the only reduction whose gradient comes from one sample, "
                f"got `reduction={self.reduction!r}`; use gradient='dense' or 'auto'."
            )

    @property
    def sparse(self) -> bool:
        """Whether the gradient is to be taken through the samples that hold the maxima only."""
        return self.reduction == "max" and self.gradient != "dense"


def check_epsilon(epsilon: float) -> None:
    """Refuse a step that is not a positive finite number.

    Raises:
        ValueError: `epsilon` is zero, negative, infinite or NaN.
        TypeError: it is no number.
    """
    check_number("epsilon", epsilon)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(
            f"`epsilon` must be a positive finite step, got {epsilon}; 0.1 suits latents of unit variance."
        )


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse a number of rows below one.

    Raises:
        ValueError: `chunk_size` is neither None nor at least 1.
        TypeError: it is no whole number.
    """
    if chunk_size is None:
        return
    check_whole("chunk_size", chunk_size)
    if chunk_size < 1:
        raise ValueError(
            f"`chunk_size` is the most rows that go through G at once and must be at least 1, got {chunk_size}; "
            "None passes one batch at a time."
        )
