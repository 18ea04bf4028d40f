"""Discovery by orthogonal Jacobian columns: needs images only, no gradient."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.joint_diagonalization import joint_diagonalize, off_diagonal_energies
from hessian_penalty.directions.method import Found, Method, Progress, Space
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import check_number
from hessian_penalty.penalty.conditions import Conditions


@dataclass(frozen=True)
class OroJaRSearch(Method):
    r"""The basis along which the changes of the whole image are orthogonal, by joint diagonalisation.

    With :math:`J_z` the Jacobian of the flattened image, the criterion over orthonormal A is

    .. math:: \sum_z \sum_{i \ne j} \left(A^T J_z^T J_z A\right)_{ij}^2
        = \sum_z \sum_{i \ne j} \big((J_z a_i) \cdot (J_z a_j)\big)^2,

    the squared off-diagonals of :math:`A^T M_z A` with the Gram matrices :math:`M_z = J_z^T J_z`. Its minimiser is
    their joint diagonaliser. Each :math:`M_z` is n x n and holds the sum over all image elements already: nothing is
    sampled but the latents, where the Hessian Penalty has one matrix for each element and needs sketches.

    J is taken by central differences along the rows of the space. Differences along any other basis agree up to
    O(ε²), so that one round is enough. At a kink (a leaky ReLU) a difference is the mean of the slopes across
    :math:`\pm ε`, and is not linear in the direction; that concerns only the elements whose kink is closer than ε, and
    their error is at most half of the jump of the slope.

    Where the Jacobian columns have equal lengths at every z, any rotation of them is as good. The given basis is
    returned if the criterion at held-out latents does not fall.

    Args:
        samples: latents at which the Gram matrices are taken.
        held_out: further latents that only judge.
        epsilon: step ε of the differences.
        batch_size: images a pass of G. Beside them, `max(batch_size / 2, dim)` difference images are held in float64
            on the CPU: dim for every sample, of which as many are taken at a time as fit in a pass.

    Source: criterion of Wei et al., "Orthogonal Jacobian Regularization", ICCV 2021, §3; here for a frozen generator.

    >>> from hessian_penalty.directions.discover import discover
    >>> G = lambda z: (z @ torch.tensor([[2.0, 1.0], [1.0, 2.0]]))[:, :, None, None]
    >>> discover(G, latent_dim=2, method=OroJaRSearch(samples=4, held_out=2)).matrix.abs()  # of the diagonals
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]])
    """

    name: ClassVar[str] = "orojar"

    samples: int = 256
    held_out: int = 64
    epsilon: float = 0.1
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name in ("samples", "held_out", "batch_size"):
            check_number(name, getattr(self, name), 1)
        check_number("epsilon", self.epsilon, 1e-6)

    def evaluations(self, dim: int) -> int:
        """Evaluations of G, without gradient."""
        return 2 * dim * (self.samples + self.held_out)

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Search; see the class. What is kept are Gram matrices."""
        z, conditions = space.sample(self.samples + self.held_out, rng)
        grams = self._all_grams(space, z, conditions, progress, state)
        judging = grams[self.samples :]
        basis = joint_diagonalize(grams[: self.samples])
        before, after = (float(off_diagonal_energies(judging, rows).mean()) for rows in (None, basis))
        if after >= before:
            basis = torch.eye(space.dim, dtype=torch.float64)
        return Found(
            basis @ space.rows,
            notes={
                "held_out_penalties": [1.0, after / before if before > 0 else 1.0],
                "evaluations": self.evaluations(space.dim),
            },
        )

    def _all_grams(
        self,
        space: Space,
        z: Tensor,
        conditions: Mapping[str, Any],
        progress: Progress | None,
        state: SearchState | None,
    ) -> Tensor:
        """Gram matrices of all samples, a group at a time."""
        kept = (state.load() if state else None) or {}
        of_samples = Conditions.for_batch(conditions, len(z))
        parts: list[Tensor] = []
        for rows in torch.arange(len(z)).split(max(1, self.batch_size // (2 * space.dim))):
            name = f"group.{len(parts)}"
            if name not in kept:
                kept[name] = jacobian_grams(
                    space, z[rows.to(z.device)], of_samples.select(rows), epsilon=self.epsilon,
                    batch_size=self.batch_size,
                )  # fmt: skip
                if state:
                    state.save(kept)
            parts.append(kept[name])
            if progress:
                progress(2 * space.dim * (int(rows[-1]) + 1), self.evaluations(space.dim))
        return torch.cat(parts)


@torch.no_grad()
def jacobian_grams(
    space: Space,
    z: Float[Tensor, "count latent"],
    conditions: Mapping[str, Any],
    *,
    epsilon: float,
    batch_size: int | None = None,
) -> Float[Tensor, "count dim dim"]:
    r"""The Gram matrix of the image's change along the rows of the space, at every z.

    :math:`M_{ij} = Δ_i \cdot Δ_j` with :math:`Δ_i = [G(z + εd_i) - G(z - εd_i)] / 2ε`, which is
    :math:`D J_z^T J_z D^T` up to O(ε²), D the rows d_i. Positive semidefinite.

    Args:
        space: what to evaluate, and the rows d_i.
        z: the points; dim difference images of each are held at once.
        conditions: those of z.
        epsilon: step ε.
        batch_size: most images a pass of G, but at least one for every z; None is as many as there are z.

    Returns:
        float64, on the CPU, in the coordinates of the rows; summed, not averaged, over image elements.

    Raises:
        UserError: images are not finite, or not a function of the latents.
    """
    steps = epsilon * space.rows.to(z)
    pairs = torch.stack([z + steps[:, None], z - steps[:, None]], dim=1)  # (dim, 2, count, latent)
    images = space.images(pairs.flatten(0, 1), conditions, batch_size)
    changes: Tensor | None = None
    for i, (ahead, behind) in enumerate(zip(images, images, strict=True)):
        change = ((ahead - behind) / (2 * epsilon)).flatten(1).cpu().double()
        if changes is None:
            changes = change.new_empty(len(z), space.dim, change.shape[1])
        changes[:, i] = change
    assert changes is not None  # a space has rows
    return changes @ changes.mT
