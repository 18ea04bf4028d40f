"""Hessian sketches: random combinations of all output elements' Hessians, by differences of gradients."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError


def hessian_sketches(
    G: Callable[..., Tensor],
    z: Float[Tensor, "count latent"],
    *,
    basis: Float[Tensor, "latent latent"],
    epsilon: float,
    batch_size: int,
    rng: torch.Generator,
    **conditions: Any,
) -> Float[Tensor, "count latent latent"]:
    r"""One sketch :math:`H^{(r)} = \sum_p r_p H_p` of the element Hessians of G at every z, r iid ±1.

    It is the Hessian of the scalar :math:`r \cdot G(z)`, and
    :math:`E_r[(A^T H^{(r)} A)_{ij}^2] = \sum_p (A^T H_p A)_{ij}^2`, since cross terms vanish: a few hundred sketches
    stand for the millions of elements whose squared off-diagonals the Hessian Penalty (mean reduction) sums. Row i
    is :math:`[\nabla(z + εd_i) - \nabla(z - εd_i)] / 2ε`, d_i a row of `basis`: 2n gradients a sketch, at a step that
    sees the curvature in kinks; then symmetrised.

    Args:
        G: images from latents, differentiable.
        z: the points, one a sketch.
        basis: orthonormal rows d_i, the directions of the differences.
        epsilon: step ε.
        batch_size: latents a pass of G; bounds memory.
        rng: draws r.

    Returns:
        Symmetric matrices in the given coordinates of z (not of `basis`), float64, on the CPU.

    Raises:
        UserError: no gradient reaches z.
    """
    n = z.shape[1]
    steps = epsilon * torch.cat([basis, -basis]).to(z)  # (2n, n)
    per_pass = max(1, batch_size // (2 * n))
    sketches = []
    for start in range(0, len(z), per_pass):
        points = z[start : start + per_pass, None] + steps  # (B, 2n, n)
        count = len(points)
        latents = points.flatten(0, 1).detach().requires_grad_()
        images = G(latents, **conditions)
        signs = torch.randint(0, 2, (count, *images.shape[1:]), generator=rng, device=rng.device)
        signs = signs.to(images.device, images.dtype).mul_(2).sub_(1)
        scalar = (images.unflatten(0, (count, 2 * n)) * signs[:, None]).sum()
        if not scalar.requires_grad:
            raise UserError('G gives no gradient with respect to z, which `method="hessian"` needs.')
        (gradient,) = torch.autograd.grad(scalar, latents)
        forward, backward = gradient.cpu().to(torch.float64).unflatten(0, (count, 2, n)).unbind(1)  # (B, n, n) each
        rows = (forward - backward) / (2 * epsilon)  # (B, i, n): d_i^T H
        hessian = basis.T.cpu().to(torch.float64) @ rows
        sketches.append((hessian + hessian.transpose(1, 2)) / 2)
    return torch.cat(sketches)
