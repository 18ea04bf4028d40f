"""The Hessian Penalty for any PyTorch generator, and interpretable directions in it."""

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.rotation import rotate_generator
from hessian_penalty.penalty import (
    Diagonality,
    HessianPenalty,
    OroJaR,
    diagonality,
    enumerated_penalty,
    hessian_energy,
    hessian_entries,
    hessian_penalty,
    hessians,
    off_diagonal_share,
    orojar,
    pairwise_penalty,
)

__all__ = [
    "Diagonality",
    "Directions",
    "HessianPenalty",
    "OroJaR",
    "diagonality",
    "discover",
    "enumerated_penalty",
    "hessian_energy",
    "hessian_entries",
    "hessian_penalty",
    "hessians",
    "off_diagonal_share",
    "orojar",
    "pairwise_penalty",
    "rotate_generator",
]
