"""The mathematics of the Hessian Penalty: probes, estimator, whole Hessians, layers, the training loss."""

from hessian_penalty.penalty.estimator import hessian_penalty
from hessian_penalty.penalty.hessians import (
    HessianEntry,
    hessian_energy,
    hessian_entries,
    hessians,
    mean_absolute_hessian,
)
from hessian_penalty.penalty.regularizer import HessianPenalty

__all__ = [
    "HessianEntry",
    "HessianPenalty",
    "hessian_energy",
    "hessian_entries",
    "hessian_penalty",
    "hessians",
    "mean_absolute_hessian",
]
