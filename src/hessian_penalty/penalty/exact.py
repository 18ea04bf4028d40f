"""The exact penalty of every output element, without sampling, for few latents: references for the estimator."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.evaluation import Evaluator, Passes, check_latents
from hessian_penalty.penalty.hessians import check_vectors, evaluate_around, hessian_entries
from hessian_penalty.penalty.settings import PenaltySettings, check_chunk_size, check_epsilon

MOST_ENUMERATED_LATENTS = 14


def enumerated_penalty(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    chunk_size: int | None = None,
    **conditions: Any,
) -> Float[Tensor, "batch *output"]:
    r"""Return the penalty of every output element, from all sign vectors instead of random ones.

    $$L_H = \tfrac12 \mathrm{Var}_{v \in \{-1, 1\}^n}\left[
      \frac{G(z + \epsilon v) - 2 G(z) + G(z - \epsilon v)}{\epsilon^2}\right]$$

    with the population variance over all $2^n$ vectors, of which $v$ and $-v$ give the same: $2^n$ evaluations of z for
    n latents, without gradient. It is the expected value of `hessian_penalty` with reduction "none" at every epsilon,
    with kinks or without. Memory does not grow with the number of vectors.

    Args:
        G: the generator; it returns one tensor.
        z: latents, at most 14 of them.
        epsilon: step.
        chunk_size: most rows (points times samples) in one pass, at least one batch; None is one batch.
        conditions: further arguments of G; tensors whose first dimension is the batch follow the samples.

    Raises:
        ValueError: too many latents, or an epsilon, chunk size or output that cannot be used.
        TypeError: G returns several outputs, or does not take a condition.

    Source: Peebles et al., "The Hessian Penalty" (ECCV 2020), section 3, and the appendix for the theorem.

    >>> z = torch.zeros(1, 3, dtype=torch.float64)
    >>> enumerated_penalty(lambda z: z[:, 0] * z[:, 1] + z[:, 2] ** 2, z).round(decimals=6)  # H_01 = H_10 = 1
    tensor([2.], dtype=torch.float64)
    """
    check_epsilon(epsilon)
    check_chunk_size(chunk_size)
    check_latents(z)
    check_vectors(z)
    batch, n = z.shape
    if n > MOST_ENUMERATED_LATENTS:
        raise ValueError(
            f"`z` must have at most {MOST_ENUMERATED_LATENTS} latents to enumerate their signs, got {n}, which would "
            f"take {2**n:,} evaluations of `G`; use `pairwise_penalty`, which takes {1 + 2 * n * n:,}."
        )
    passes = Passes(Evaluator(G), z, conditions)
    at_once = max(1, (chunk_size or 0) // (2 * batch))  # vectors whose two corners share a pass
    count = 0
    mean = deviations = z.new_zeros(())
    for numbers in torch.split(torch.arange(2 ** (n - 1)), at_once):
        steps = epsilon * _signs(numbers, n).to(z)
        corners = torch.stack((steps, -steps), dim=1).flatten(0, 1)  # (2 * vectors, latent)
        values = evaluate_around(passes, z, corners, chunk_size)
        for plus, minus in values.reshape(-1, 2, *values.shape[1:]):
            # Welford's recurrence: G(z), the same in all of them, may be far larger than their differences.
            total = plus + minus
            count += 1
            from_old_mean = total - mean
            mean = mean + from_old_mean / count
            deviations = deviations + from_old_mean * (total - mean)
    return deviations * (0.5 / count / epsilon**4)


def pairwise_penalty(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    basis: Float[Tensor, "count latent"] | None = None,
    method: str = "differences",
    chunk_size: int | None = None,
    **conditions: Any,
) -> Float[Tensor, "batch *output"]:
    r"""Return the penalty of every output element, from its definition by Hessian entries.

    $$L_H = \sum_i \sum_{j \ne i} H_{ij}^2$$

    With differences, $1 + 2n^2$ evaluations of z for n latents, without gradient. For two latents it equals
    `enumerated_penalty` at every epsilon, with kinks or without; for more of them where fourth and higher derivatives
    vanish, and for a smooth G up to $O(\epsilon^2)$. With autodiff it is the limit of both for $\epsilon \to 0$, which
    misses kinks (see `hessian_entries`).

    Args:
        G: the generator; it returns one tensor.
        z: latents.
        epsilon: step.
        basis: directions whose interactions are penalised, in rows; None takes the coordinates.
        method: "differences" or "autodiff".
        chunk_size: most rows (points times samples) in one pass, at least one batch; None is one batch.
        conditions: further arguments of G; tensors whose first dimension is the batch follow the samples.

    Raises:
        ValueError, TypeError, NotImplementedError: those of `hessian_entries`.

    Source: Peebles et al., "The Hessian Penalty" (ECCV 2020), section 3.

    >>> z = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> pairwise_penalty(lambda z: z[:, 0] ** 2 * z[:, 1], z, method="autodiff")  # 2 (2 z_0)^2
    tensor([ 8., 72.])
    """
    penalty: Tensor | None = None
    for i, j, values in hessian_entries(
        G, z, epsilon=epsilon, basis=basis, method=method, chunk_size=chunk_size, **conditions
    ):
        both = torch.zeros_like(values) if i == j else 2 * values.square()  # H_ij and H_ji
        penalty = both if penalty is None else penalty + both
    assert penalty is not None  # a basis has at least one row
    return penalty


def _signs(numbers: Tensor, n: int) -> Tensor:
    """Return the sign vectors whose bits the numbers hold: (numbers, n). Below 2^(n - 1) the last sign is 1."""
    bits = (numbers[:, None] >> torch.arange(n)) & 1
    return 1 - 2 * bits
