"""Rademacher probes: the random sign vectors of the estimator, and the steps they make in the latent space."""

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.arguments import check_tensor


def rademacher_probes(
    z: Float[Tensor, "batch *latent"], k: int, rng: torch.Generator | None = None
) -> Float[Tensor, "k batch *latent"]:
    r"""Draw k independent sign tensors for each sample.

    Each entry is $+1$ or $-1$ with probability 1/2, so that $v_i^2 = 1$ and the Hessian's diagonal drops out of
    $\mathrm{Var}_v(v^T H v)$.

    Args:
        z: latents; only their shape, dtype and device are used.
        k: number of probes.
        rng: generator of the draws, on its own device; None uses torch's global one for the device of z.

    Source: Hutchinson (1989) for the vectors; Peebles et al., "The Hessian Penalty" (ECCV 2020) for their use.

    >>> rademacher_probes(torch.zeros(1, 3), 2, torch.Generator().manual_seed(0)).abs().sum()
    tensor(6.)
    """
    device = z.device if rng is None else rng.device
    bits = torch.randint(0, 2, (k, *z.shape), generator=rng, device=device)
    return (2 * bits - 1).to(z)


def check_probes(probes: Tensor, z: Tensor, k: int) -> Tensor:
    """Return the given probes in the dtype and on the device of z.

    Raises:
        ValueError: the shape is not (k, *z.shape), or a value is neither 1 nor -1.
        TypeError: it is no tensor.
    """
    check_tensor("probes", probes)
    expected = (k, *z.shape)
    if tuple(probes.shape) != expected:
        raise ValueError(
            f"`probes` must have the shape (k, *z.shape) = {expected}, got {tuple(probes.shape)}; pass `k` if you "
            "bring another number of probes."
        )
    if not bool((probes.abs() == 1).all()):
        raise ValueError(
            "`probes` must hold signs, 1 or -1: with other values the diagonal of the Hessian does not cancel; got "
            f"values from {probes.min().item():g} to {probes.max().item():g}."
        )
    return probes.to(z)


def probe_steps(
    z: Float[Tensor, "batch *latent"],
    probes: Float[Tensor, "k batch *latent"],
    epsilon: float,
    *,
    scale_epsilon: bool = False,
) -> Float[Tensor, "k batch *latent"]:
    r"""Turn signs into steps: $\epsilon v$, or $\epsilon \sigma \circ v$ with $\sigma_i$ the batch's std of $z_i$.

    The scaled step measures the Hessian in units of the standardised code, $\sigma_i \sigma_j H_{ij}$, so that a code
    cannot lower the penalty by growing. The gradient flows through $\sigma$: only then is it zero along that growth.

    Raises:
        ValueError: with `scale_epsilon`, fewer than two samples or a latent component that is constant.

    >>> probe_steps(torch.tensor([[1.0], [3.0]]), torch.ones(2, 2, 1), 0.5, scale_epsilon=True)[0].ravel()
    tensor([0.7071, 0.7071])
    """
    if not scale_epsilon:
        return epsilon * probes
    if z.shape[0] < 2:
        raise ValueError(
            "`scale_epsilon` takes a standard deviation over the batch: `z` needs 2 samples or more, got 1."
        )
    spread = z.var(dim=0)
    constant = (spread == 0).flatten().nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"`scale_epsilon` needs latent components that vary over the batch, but component(s) {constant} of `z` are "
            "constant; leave them out of z or set scale_epsilon=False."
        )
    return epsilon * spread.sqrt() * probes


def draw_groups(
    z: Float[Tensor, "batch *latent"], groups: str | Tensor, rng: torch.Generator | None = None
) -> tuple[Float[Tensor, "batch *latent"], int]:
    r"""Draw one group of latent components for each sample: a mask that is 1 in it, and the number m of groups.

    Signs times the mask step in the drawn group alone. With $L_g$ the penalty of the pairs in group g, each sample
    estimates one $L_g$, so m times the estimate has the mean $\sum_g L_g$: the pairs of components of the same group.

    Args:
        z: latents.
        groups: "rows", where each row of (batch, rows, latent) is a group, or a label for each component.
        rng: generator of the draws.

    Raises:
        ValueError: "rows" for latents without rows, other words, or labels in another shape than that of one sample.

    >>> mask, m = draw_groups(torch.zeros(1, 4), torch.tensor([7, 7, 8, 8]), torch.Generator().manual_seed(0))
    >>> mask, m
    (tensor([[1., 1., 0., 0.]]), 2)
    """
    shape = z.shape[1:]
    if isinstance(groups, str):
        if groups != "rows" or len(shape) < 2:
            raise ValueError(
                f"`groups` must be 'rows', for `z` of the shape (batch, rows, latent), or a tensor of labels, got "
                f"{groups!r} and the shape {tuple(z.shape)}; leave it out to take all pairs of components."
            )
        labels = torch.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    else:
        check_tensor("groups", groups)
        labels = groups
        if labels.shape != shape or labels.is_floating_point():
            raise ValueError(
                f"`groups` must hold one whole number for each component of a sample, the shape {tuple(shape)}, got "
                f"{labels.dtype} of the shape {tuple(labels.shape)}."
            )
    names, labels = labels.to(z.device).unique(return_inverse=True)
    device = z.device if rng is None else rng.device
    drawn = torch.randint(0, len(names), (z.shape[0],), generator=rng, device=device).to(z.device)
    return (labels == drawn.reshape(-1, *[1] * len(shape))).to(z.dtype), len(names)
