"""The mathematics of the Hessian Penalty: probes, estimator, whole Hessians, layers, the training loss."""

from hessian_penalty.penalty.diagonality import Diagonality, diagonality, off_diagonal_share
from hessian_penalty.penalty.elements import CollapsedError
from hessian_penalty.penalty.exact import enumerated_penalty, pairwise_penalty
from hessian_penalty.penalty.hessians import (
    HessianEntry,
    hessian_energy,
    hessian_entries,
    hessians,
    mean_absolute_hessian,
)
from hessian_penalty.penalty.jacobian_products import orojar
from hessian_penalty.penalty.regularizer import HessianPenalty, OroJaR
from hessian_penalty.penalty.second_differences import hessian_penalty

__all__ = [
    "CollapsedError",
    "Diagonality",
    "HessianEntry",
    "HessianPenalty",
    "OroJaR",
    "diagonality",
    "enumerated_penalty",
    "hessian_energy",
    "hessian_entries",
    "hessian_penalty",
    "hessians",
    "mean_absolute_hessian",
    "off_diagonal_share",
    "orojar",
    "pairwise_penalty",
]
