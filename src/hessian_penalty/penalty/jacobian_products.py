"""Orthogonal Jacobian Regularization of any generator, as a function."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.estimator import penalise
from hessian_penalty.penalty.form import Form
from hessian_penalty.penalty.settings import PenaltySettings


@overload
def orojar(
    G: Callable[..., Any], z: Tensor, *, reduction: Literal["none"], **options: Any
) -> Tensor | tuple[Tensor, ...]: ...


@overload
def orojar(
    G: Callable[..., Any],
    z: Tensor,
    *,
    reduction: Literal["max", "mean"] | Callable[[Tensor], Tensor] = ...,
    **options: Any,
) -> Tensor: ...


def orojar(
    G: Callable[..., Any],
    z: Float[Tensor, "batch *latent"],
    *,
    k: int = PenaltySettings.k,
    epsilon: float = PenaltySettings.epsilon,
    reduction: str | Callable[[Tensor], Tensor] = PenaltySettings.reduction,
    gradient: str = PenaltySettings.gradient,
    layers: str | Sequence[str] | None = PenaltySettings.layers,
    groups: str | Tensor | None = PenaltySettings.groups,
    chunk_size: int | None = PenaltySettings.chunk_size,
    scale_free: bool = PenaltySettings.scale_free,
    scale_epsilon: bool = PenaltySettings.scale_epsilon,
    probes: Float[Tensor, "k batch *latent"] | None = None,
    rng: torch.Generator | None = None,
    **conditions: Any,
) -> Tensor | tuple[Tensor, ...]:
    r"""Estimate how far the latents of G are from changing its output in orthogonal ways.

    With $J$ the Jacobian of one whole output (all elements of a sample) with respect to z, and $J_i$ its columns,

    $$L_J = \sum_i \sum_{j \ne i} (J_i^T J_j)^2 = \tfrac12 \mathrm{Var}_v\left[\lVert J v \rVert^2\right], \qquad
      J v \approx \frac{G(z + \epsilon v) - G(z)}{\epsilon}, \quad v_i = \pm 1,$$

    with k random sign vectors: k + 1 evaluations of G. The penalty is a number for each sample, summed over elements,
    so it grows with the square of their number. Of several outputs the sum is returned, each reduced on its own. The
    published PyTorch implementation returns $2 L_J$.

    Arguments, errors and what happens to random numbers and buffers are those of `hessian_penalty`, with reductions
    over the batch: "none" returns a tensor of shape (batch,), or a tuple of them.

    Source: Wei, Shi, Liu, Ji, Gao, Wu and Zuo, "Orthogonal Jacobian Regularization for Unsupervised Disentanglement in
    Image Generation" (ICCV 2021), section 3.

    >>> z = torch.zeros(1, 2, dtype=torch.float64)
    >>> signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]], dtype=torch.float64)
    >>> orojar(lambda z: z[:, :1] + z[:, 1:], z, probes=signs).round(decimals=6)  # |Jv|^2 = 4 and 0
    tensor(4., dtype=torch.float64)
    """
    settings = PenaltySettings(k, epsilon, reduction, gradient, layers, groups, chunk_size, scale_free, scale_epsilon)
    return penalise(JacobianProducts(), G, z, settings, probes=probes, rng=rng, conditions=conditions)


class JacobianProducts(Form):
    r"""The penalty $\tfrac12 \mathrm{Var}_v \lVert J v \rVert^2$ of a sample from its values at z and at each probe.

    Source: Wei et al. (ICCV 2021), section 3.
    """

    scale_power = 2
    known_corner = 0

    def points(self, z: Tensor, steps: Tensor, *, known: bool) -> Tensor:
        """Return z and z + steps.

        >>> JacobianProducts().points(torch.zeros(1, 1), torch.tensor([[[0.5]], [[-0.5]]]), known=False).flatten()
        tensor([ 0.0000,  0.5000, -0.5000])
        """
        return torch.cat((z[None], z + steps))

    def gather(self, corners: Iterator[list[Tensor]], k: int) -> list[list[Tensor]]:
        """Return, for every output and probe, the squared norm of its change in each sample.

        >>> JacobianProducts().gather(iter([[torch.tensor([[x]])] for x in (1.0, 3.0, 2.0)]), k=2)
        [[tensor([4.]), tensor([1.])]]
        """
        centre = next(corners)
        norms: list[list[Tensor]] = [[] for _ in centre]
        for _ in range(k):
            for found, start, end in zip(norms, centre, next(corners), strict=True):
                found.append((end - start).square().flatten(1).sum(dim=1))
        return norms

    def elements(self, gathered: list[Tensor], epsilon: float) -> Tensor:
        """Return the estimate of every sample.

        >>> JacobianProducts().elements([torch.tensor([0.04]), torch.tensor([0.0])], 0.1)
        tensor([4.])
        """
        norms = torch.stack(gathered) / epsilon**2  # (k, batch)
        return 0.5 * norms.var(dim=0)

    def rounding(self, corners: list[Tensor], epsilon: float) -> float:
        r"""Return $2 \lVert Jv \rVert u \max|G| / \epsilon$, the rounding of $\lVert Jv \rVert^2$."""
        start, end = corners
        product = float(torch.linalg.vector_norm((end - start).flatten(1), dim=1).max()) / epsilon
        return 2 * product * torch.finfo(start.dtype).eps / 2 * float(start.abs().max()) / epsilon
