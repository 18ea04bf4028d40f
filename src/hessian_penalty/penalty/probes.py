"""Rademacher probes: the random sign vectors of the estimator, and the steps they make in the latent space."""

import torch
from jaxtyping import Float
from torch import Tensor


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
    """
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


def corner_points(
    z: Float[Tensor, "batch *latent"], steps: Float[Tensor, "k batch *latent"]
) -> Float[Tensor, "2*k batch *latent"]:
    """Return z + steps and z - steps, the two corners of a probe next to each other.

    >>> corner_points(torch.tensor([[1.0]]), torch.tensor([[[0.5]], [[-0.5]]])).flatten()
    tensor([1.5000, 0.5000, 0.5000, 1.5000])
    """
    return torch.stack((z + steps, z - steps), dim=1).flatten(0, 1)
