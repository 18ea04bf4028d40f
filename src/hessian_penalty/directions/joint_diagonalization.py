"""Approximate joint diagonalisation of symmetric matrices by Jacobi rotations."""

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError

MAX_SWEEPS = 100
PART = 2**18  # numbers turned at a time, 2 MB: beyond the caches a turn takes ten times as long
SMALLEST_ANGLE = 1e-8  # radians; a sweep that turns no pair further has converged


def off_diagonal_energies(
    matrices: Float[Tensor, "count n n"], basis: Float[Tensor, "rows n"] | None = None
) -> Float[Tensor, " count"]:
    r""":math:`\sum_{i \ne j} (A^T M_t A)_{ij}^2` of every matrix, where A's columns are the rows of `basis`."""
    turned = matrices if basis is None else basis @ matrices @ basis.T
    off_diagonal = turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))
    return off_diagonal.square().sum(dim=(1, 2))


def _rounds(n: int) -> list[tuple[Tensor, Tensor]]:
    """A sweep over all pairs as rounds of disjoint pairs (the circle method of round-robin tournaments)."""
    players = list(range(n + n % 2))
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = [(a, b) for a, b in zip(players[:half], players[: half - 1 : -1], strict=True) if max(a, b) < n]
        if pairs:
            rounds.append((torch.tensor([min(p) for p in pairs]), torch.tensor([max(p) for p in pairs])))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _turn(x: Tensor, p: Tensor, q: Tensor, c: Tensor, s: Tensor) -> None:
    """Rotate the index pairs (p, q) of the first dimension of `x`, in place."""
    c, s = (angle.reshape(-1, *[1] * (x.ndim - 1)) for angle in (c, s))
    xp, xq = x[p], x[q]
    x[p], x[q] = torch.addcmul(c * xp, s, xq), torch.addcmul(c * xq, s, xp, value=-1)


def joint_diagonalize(matrices: Float[Tensor, "count n n"], *, max_sweeps: int = MAX_SWEEPS) -> Float[Tensor, "n n"]:
    r"""The orthonormal basis that makes symmetric matrices as diagonal as one basis can, together.

    Minimises :math:`\sum_t \sum_{i \ne j} (A^T M_t A)_{ij}^2` over orthonormal A. For a pair (p, q), with
    :math:`h_t = (M_{pp} - M_{qq},\; 2 M_{pq})`, :math:`t_{on} = \sum h_1^2 - \sum h_2^2` and
    :math:`t_{off} = 2 \sum h_1 h_2`, the best rotation has the angle
    :math:`\theta = \tfrac14 \operatorname{atan2}(t_{off}, t_{on})`. This form, unlike
    :math:`\tfrac12 \operatorname{atan2}(t_{off}, t_{on} + \sqrt{t_{on}^2 + t_{off}^2})`, also leaves the maximum,
    where :math:`t_{off} = 0 > t_{on}`. Pairs without a common index have independent angles and turn together.

    Source: Cardoso & Souloumiac, "Jacobi angles for simultaneous diagonalization", SIAM J. Matrix Anal. 1996.

    >>> joint_diagonalize(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])).abs()  # of z0·z1: the two diagonals
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]], dtype=torch.float64)

    Args:
        matrices: symmetric; computed with in float64.
        max_sweeps: sweeps over all pairs at most; a dozen are usual.

    Returns:
        Rows are the basis vectors, float64.

    Raises:
        UserError: an entry is not finite.
    """
    if not torch.isfinite(matrices).all():
        raise UserError("`matrices` must be finite, got NaN or infinity: does the generator give finite images?")
    n, device = matrices.shape[-1], matrices.device
    parts = [
        part.double().permute(1, 2, 0).clone(memory_format=torch.contiguous_format)
        for part in matrices.split(max(1, PART // n**2))  # (n, n, T): what is turned lies together
    ]
    basis = torch.eye(n, dtype=torch.float64, device=device)
    rounds = [(p.to(device), q.to(device)) for p, q in _rounds(n)]
    for _ in range(max_sweeps):
        largest = 0.0
        for p, q in rounds:
            h1 = torch.cat([part[p, p] - part[q, q] for part in parts], dim=1)  # (pairs, T)
            h2 = torch.cat([2 * part[p, q] for part in parts], dim=1)
            theta = 0.25 * torch.atan2(2 * (h1 * h2).sum(1), (h1.square() - h2.square()).sum(1))
            c, s = theta.cos(), theta.sin()
            for part in parts:
                _turn(part, p, q, c, s)
                _turn(part.transpose(0, 1), p, q, c, s)
            _turn(basis, p, q, c, s)
            largest = max(largest, float(theta.abs().max()))
        if largest < SMALLEST_ANGLE:
            break
    return basis
