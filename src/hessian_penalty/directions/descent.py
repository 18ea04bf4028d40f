"""What searches by gradient descent on a matrix of directions have in common."""

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError

ADAM = "adam."  # before the names of an optimiser's tensors in the state of a search
INITS = ("random", "coordinates")
MOST_MEANS = 20  # numbers in which the provenance tells the course of a search
NO_GRADIENT = (
    "The generator gives no gradient with respect to its latents, which this method needs; let it run without "
    "torch.no_grad(), torch.inference_mode() and detach(), or choose a method that needs none: 'orojar', 'ganspace', "
    "'random'."
)


def orthonormal_rows(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    r"""Gram-Schmidt on the rows: with :math:`M^T = Q R` they are :math:`\mathrm{sign}(R_{ii})\, q_i`.

    Differentiable where the rows are linearly independent.

    >>> orthonormal_rows(torch.tensor([[-3.0, 4.0], [1.0, 1.0]]))
    tensor([[-0.6000,  0.8000],
            [ 0.8000,  0.6000]])
    """
    Q, R = torch.linalg.qr(matrix.T)
    signs = torch.ones_like(R.diagonal()).copysign(R.diagonal().detach())
    orthonormal: Tensor = (Q * signs).T
    return orthonormal


def starting_rows(init: str, dim: int, rng: torch.Generator) -> Float[Tensor, "dim dim"]:
    """Orthonormal rows to start from, float64 on the CPU: the "coordinates", or "random" ones.

    >>> starting_rows("coordinates", 2, torch.Generator())
    tensor([[1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    if init == "coordinates":
        return torch.eye(dim, dtype=torch.float64)
    return orthonormal_rows(torch.randn(dim, dim, generator=rng, device=rng.device, dtype=torch.float64).cpu())


def check_init(init: str) -> None:
    """Refuse a start that there is not.

    Raises:
        UserError: it is neither "random" nor "coordinates".
    """
    if init not in INITS:
        raise UserError(f"`init` must be one of {', '.join(map(repr, INITS))}, got {init!r}.")


def gradients(loss: Float[Tensor, ""], parameters: list[Tensor]) -> list[Tensor]:
    """Gradients of a loss with respect to these parameters alone: those of the generator accumulate nothing.

    Raises:
        UserError: one of them has no part in the loss.
    """
    found = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else (None,)
    present = [gradient for gradient in found if gradient is not None]
    if len(present) < len(found):
        raise UserError(NO_GRADIENT)
    return present


def block_means(values: Float[Tensor, " steps"]) -> list[float]:
    """Means of at most 20 blocks of equal length (the last may be shorter), in order.

    >>> block_means(torch.tensor([1.0, 3.0]).repeat_interleave(20))[:3]
    [1.0, 1.0, 1.0]
    """
    return [float(block.mean()) for block in values.chunk(MOST_MEANS)]
