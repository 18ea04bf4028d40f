"""Rename a generator's latents to directions, at no loss: a rotation folded into its first linear layer."""

import copy

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANGenerator


def require_rotation(matrix: Float[Tensor, "rows latent"]) -> None:
    """Refuse what is not a square orthonormal matrix: only a rotation leaves the distribution of N(0, I) as it is.

    Raises:
        UserError: not square, or rows not orthonormal.
    """
    rows, latent_dim = matrix.shape
    if rows != latent_dim:
        raise UserError(
            f"A rotation needs as many directions as latents ({latent_dim}), got {rows}; discover without `count`."
        )
    error = float((matrix @ matrix.T - torch.eye(rows, device=matrix.device, dtype=matrix.dtype)).abs().max())
    if error > 1e-4:
        raise UserError(f"A rotation needs orthonormal directions; theirs differ from it by {error:.2g}.")


def fold_weight(
    weight: Float[Tensor, "out latent"], matrix: Float[Tensor, "latent latent"]
) -> Float[Tensor, "out latent"]:
    r"""The first layer's weight for new latents w, where :math:`z = \sum_i w_i d_i = D^T w`: :math:`W' = W D^T`."""
    return (weight.double() @ matrix.double().T.to(weight.device)).to(weight.dtype)


def fold_second_moment(
    moment: Float[Tensor, "out latent"], matrix: Float[Tensor, "latent latent"]
) -> Float[Tensor, "out latent"]:
    r"""Adam's running mean square of the gradient in the new coordinates, taking the old components as uncorrelated.

    :math:`E[(\sum_j D_{ij} g_j)^2] \approx \sum_j D_{ij}^2 E[g_j^2]`.
    """
    return (moment.double() @ matrix.double().square().T.to(moment.device)).to(moment.dtype)


def rotate_generator(generator: ProGANGenerator, matrix: Float[Tensor, "latent latent"]) -> ProGANGenerator:
    """A copy G' with G'(w) = G(w @ matrix): latents are the given directions, images are the same.

    Latent normalisation stays exact, since a rotation keeps the norm.

    Raises:
        UserError: `matrix` is not a rotation.
    """
    require_rotation(matrix)
    rotated = copy.deepcopy(generator)
    with torch.no_grad():
        layer = rotated.first_linear
        layer.weight.copy_(fold_weight(layer.weight, matrix))
    return rotated
