"""The Hessian Penalty of any generator, as a function."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple, overload

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.conditions import Conditions
from hessian_penalty.penalty.elements import batch_variances, element_penalties, pair_sums, reduce_elements
from hessian_penalty.penalty.evaluation import Evaluator, check_finite, check_latents, evaluate_corners
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.probes import check_probes, corner_points, probe_steps, rademacher_probes
from hessian_penalty.penalty.settings import PenaltySettings
from hessian_penalty.penalty.sparse import sparse_maxima


@overload
def hessian_penalty(
    G: Callable[..., Any],
    z: Tensor,
    *,
    k: int = ...,
    epsilon: float = ...,
    reduction: Literal["none"],
    gradient: str = ...,
    layers: str | Sequence[str] | None = ...,
    chunk_size: int | None = ...,
    scale_free: bool = ...,
    scale_epsilon: bool = ...,
    probes: Tensor | None = ...,
    rng: torch.Generator | None = ...,
    **conditions: Any,
) -> Tensor | tuple[Tensor, ...]: ...


@overload
def hessian_penalty(
    G: Callable[..., Any],
    z: Tensor,
    *,
    k: int = ...,
    epsilon: float = ...,
    reduction: Literal["max", "mean"] | Callable[[Tensor], Tensor] = ...,
    gradient: str = ...,
    layers: str | Sequence[str] | None = ...,
    chunk_size: int | None = ...,
    scale_free: bool = ...,
    scale_epsilon: bool = ...,
    probes: Tensor | None = ...,
    rng: torch.Generator | None = ...,
    **conditions: Any,
) -> Tensor: ...


def hessian_penalty(
    G: Callable[..., Any],
    z: Float[Tensor, "batch *latent"],
    *,
    k: int = PenaltySettings.k,
    epsilon: float = PenaltySettings.epsilon,
    reduction: str | Callable[[Tensor], Tensor] = PenaltySettings.reduction,
    gradient: str = PenaltySettings.gradient,
    layers: str | Sequence[str] | None = PenaltySettings.layers,
    chunk_size: int | None = PenaltySettings.chunk_size,
    scale_free: bool = PenaltySettings.scale_free,
    scale_epsilon: bool = PenaltySettings.scale_epsilon,
    probes: Float[Tensor, "k batch *latent"] | None = None,
    rng: torch.Generator | None = None,
    **conditions: Any,
) -> Tensor | tuple[Tensor, ...]:
    r"""Estimate how far the latents of G are from acting one by one: the squared off-diagonals of its Hessians.

    For each element p of G's output (a pixel, a channel, a neuron) with Hessian $H$ with respect to z,

    $$L_H(p) = \sum_i \sum_{j \ne i} H_{ij}^2 = \tfrac12 \mathrm{Var}_v\left[v^T H v\right], \qquad v_i = \pm 1,$$

    estimated from second differences at k random sign vectors: 2k evaluations of G, as $G(z)$ cancels. An element's
    estimate is unbiased, and so is a mean; a maximum is biased upwards. Of several outputs the sum is returned, each
    reduced on its own. Paper implementations in PyTorch return $2 L_H$.

    All passes run with autocast and reduced-precision float32 kernels off.

    Args:
        G: the generator, a callable from (batch, latent) to a tensor or a sequence of tensors, batch first.
        z: latents, float32 or float64; all further dimensions, where there are several, are latent components.
        k: number of probes, at least 2.
        epsilon: step of the second differences. Kinks (ReLU) are seen at this scale.
        reduction: over the batch and the elements of an output: "max" (the paper's choice for training), "mean" (for
            directions), "none" (the tensor of element penalties, or a tuple of them), or a callable to a scalar.
        gradient: "dense" keeps the graph of all 2k evaluations. "sparse" (max only) evaluates without a graph and
            repeats the samples that hold the maxima with it: same value and gradient for less time and memory, unless
            samples influence each other, which is noticed and answered by the dense form and a warning. "auto": sparse
            for max.
        layers: glob pattern, or several, of named modules of G ("synthesis.*.norm") to penalise instead of G's outputs.
            The passes stop after the last of them, except the first pass, in which their order is learned.
        chunk_size: most rows (corners times samples) in one pass, at least one batch; None is one batch. It changes
            speed and memory only, if the samples of a batch do not influence each other.
        scale_free: divide the penalty of each output by that output's variance over the batch (at the first corner,
            mean over elements) with its gradient, so that shrinking activations wins nothing. Costs nothing in the
            dense form, one pass with a graph in the sparse one.
        scale_epsilon: step by epsilon times the standard deviation of each latent component over the batch, for codes
            whose scale is learned.
        probes: signs to use instead of random ones.
        rng: generator of the random signs; None uses torch's global one.
        conditions: further arguments of G; tensors whose first dimension is the batch follow the samples.

    Returns:
        A scalar, at least 0; with reduction "none" the element penalties, shaped like G's output.

    Raises:
        ValueError: for values outside the above, outputs without the batch dimension, or outputs that are not finite.
        TypeError: for a z that is not float32 or float64, outputs that are no such tensors, a condition that G does not
            take, or `layers` without a module.

    Source: Peebles, Peebles, Zhu, Efros and Torralba, "The Hessian Penalty" (ECCV 2020), section 3.

    >>> z = torch.zeros(1, 2, dtype=torch.float64)
    >>> signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]], dtype=torch.float64)
    >>> hessian_penalty(lambda z: z[:, 0] * z[:, 1], z, probes=signs).round(decimals=6)  # (2 - -2)^2 / 2 / 2
    tensor(4., dtype=torch.float64)
    """
    settings = PenaltySettings(k, epsilon, reduction, gradient, layers, chunk_size, scale_free, scale_epsilon)
    penalties = estimate(G, z, settings, probes=probes, rng=rng, conditions=conditions).penalties
    if reduction == "none":
        return penalties[0] if len(penalties) == 1 else tuple(penalties)
    return torch.stack(penalties).sum()


class Estimate(NamedTuple):
    """The reduced penalty of every output, and whether samples were found to influence each other."""

    penalties: list[Tensor]
    coupled: bool


def estimate(
    G: Callable[..., Any],
    z: Float[Tensor, "batch *latent"],
    settings: PenaltySettings,
    *,
    probes: Float[Tensor, "k batch *latent"] | None = None,
    rng: torch.Generator | None = None,
    conditions: Mapping[str, Any],
) -> Estimate:
    """Do the work of `hessian_penalty`, output by output.

    >>> estimate(lambda z: [z, z.sin()], torch.ones(1, 3), PenaltySettings(), conditions={}).coupled
    False
    """
    check_latents(z)
    signs = rademacher_probes(z, settings.k, rng) if probes is None else check_probes(probes, z, settings.k)
    evaluate = Evaluator(G, conditions, settings.layers)
    per_sample = Conditions.for_batch(conditions, z.shape[0])
    with full_precision(z.device.type):
        steps = probe_steps(z, signs, settings.epsilon, scale_epsilon=settings.scale_epsilon)
        sparse = settings.sparse and torch.is_grad_enabled()  # without a graph there is nothing to save
        if sparse:
            maxima = sparse_maxima(evaluate, z, steps, settings.epsilon, per_sample, settings.chunk_size)
            if maxima is not None:
                if settings.scale_free:
                    outputs = next(evaluate_corners(evaluate, (z + steps[0])[None], per_sample))
                    maxima = [m / v for m, v in zip(maxima, batch_variances(outputs), strict=True)]
                return Estimate(maxima, coupled=False)
            warnings.warn(
                "the samples of a batch influence each other in G (batch normalisation in training mode, minibatch "
                "statistics or random numbers?), so the sparse gradient is not exact: using gradient='dense'",
                stacklevel=3,
            )
        return Estimate(_dense(evaluate, z, steps, settings, per_sample), coupled=sparse)


def _dense(
    evaluate: Evaluator, z: Tensor, steps: Tensor, settings: PenaltySettings, conditions: Conditions
) -> list[Tensor]:
    corners = evaluate_corners(evaluate, corner_points(z, steps), conditions, settings.chunk_size)
    first = next(corners)
    variances = batch_variances(first) if settings.scale_free else [None] * len(first)
    penalties = []
    for index, sums in enumerate(pair_sums(chain([first], corners))):
        check_finite(sums, index)
        elements = element_penalties(sums, settings.epsilon)
        variance = variances[index]
        penalties.append(reduce_elements(elements if variance is None else elements / variance, settings.reduction))
    return penalties
