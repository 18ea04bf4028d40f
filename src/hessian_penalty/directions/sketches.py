"""Hessian sketches: random combinations of all output elements' Hessians, by differences of gradients."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hessian_penalty.directions.descent import NO_GRADIENT
from hessian_penalty.directions.method import Space
from hessian_penalty.errors import UserError


def hessian_sketches(
    space: Space,
    z: Float[Tensor, "count latent"],
    conditions: Mapping[str, Any],
    *,
    along: Float[Tensor, "dim latent"],
    epsilon: float,
    seeds: Int[Tensor, " count"],
    on_pass: Callable[[], None] | None = None,
) -> Float[Tensor, "count dim dim"]:
    r"""One sketch :math:`H^{(r)} = \sum_p r_p H_p` of the element Hessians of G at every z, r iid ±1.

    It is the Hessian of the scalar :math:`r \cdot G(z)`, and
    :math:`E_r[(A^T H^{(r)} A)_{ij}^2] = \sum_p (A^T H_p A)_{ij}^2`, since cross terms vanish: a few hundred sketches
    stand for the millions of elements whose squared off-diagonals the Hessian Penalty (mean reduction) sums. Row i
    is :math:`D [\nabla(z + εd_i) - \nabla(z - εd_i)] / 2ε` with D the rows d_i: two gradients for each direction and
    sketch, at a step that sees the curvature in kinks; then symmetrised.

    Args:
        space: what to evaluate.
        z: the points, one for each sketch; all of them go through G in one pass for each of the 2 x dim corners.
        conditions: those of z.
        along: orthonormal rows d_i, the directions of the differences.
        epsilon: step ε.
        seeds: one for each r, so that it does not depend on how many sketches are made at a time.
        on_pass: called after every pass.

    Returns:
        Symmetric matrices :math:`D H^{(r)} D^T`, in the coordinates of the rows, float64, on the CPU.

    Raises:
        UserError: no gradient reaches z, or images or gradients are not finite.
    """
    dim = along.shape[0]
    rows = along.to(z)
    steps = epsilon * torch.cat((rows, -rows))
    start = space.noise(z, conditions)
    found = torch.zeros(dim, len(z), dim, dtype=torch.float64)  # (i, count, j)
    signs: Tensor | None = None
    with torch.enable_grad():
        for corner, step in enumerate(steps):
            point = (z + step).detach().requires_grad_()
            (images,) = space.images(point[None], conditions, start=start)
            if signs is None:
                signs = torch.stack([_signs(images.shape[1:], int(seed)) for seed in seeds]).to(images.device)
            scalar = (images * signs).sum()
            del images
            if not scalar.requires_grad:
                raise UserError(NO_GRADIENT)
            (gradient,) = torch.autograd.grad(scalar, point)
            side = 1 if corner < dim else -1
            found[corner % dim] += side / (2 * epsilon) * (gradient @ rows.T).cpu().double()
            if on_pass:
                on_pass()
    if not bool(torch.isfinite(found).all()):
        raise UserError("The generator's gradients are not finite at ordinary latents; check its weights.")
    hessian = found.transpose(0, 1)  # (count, i, j)
    return (hessian + hessian.transpose(1, 2)) / 2


def _signs(shape: torch.Size, seed: int) -> Tensor:
    return 2 * torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8) - 1
