"""The Hessian Penalty for any PyTorch generator, and interpretable directions in it."""

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.rotation import rotate_generator
from hessian_penalty.penalty import HessianPenalty, hessian_energy, hessian_penalty, hessians

__all__ = [
    "Directions",
    "HessianPenalty",
    "discover",
    "hessian_energy",
    "hessian_penalty",
    "hessians",
    "rotate_generator",
]
