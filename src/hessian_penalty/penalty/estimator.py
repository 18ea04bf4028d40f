"""From a form to a penalty: probes, passes, reduction, and the gradient in its cheapest way."""

import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.compiler import outside_compiler
from hessian_penalty.penalty.distributed import maxima_over_processes
from hessian_penalty.penalty.elements import batch_variances, reduce_elements
from hessian_penalty.penalty.evaluation import Evaluator, Passes, check_finite, check_latents
from hessian_penalty.penalty.form import Corners, Form
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.probes import check_probes, draw_groups, probe_steps, rademacher_probes
from hessian_penalty.penalty.recorded import Recorded
from hessian_penalty.penalty.settings import PenaltySettings
from hessian_penalty.penalty.sparse import sparse_maxima


class Estimate(NamedTuple):
    """The reduced penalty of every output, and whether the sparse gradient was tried and cannot be had for this G."""

    penalties: list[Tensor]
    dense_only: bool


@outside_compiler
def penalise(
    form: Form,
    G: Callable[..., Any],
    z: Float[Tensor, "batch *latent"],
    settings: PenaltySettings,
    *,
    probes: Float[Tensor, "k batch *latent"] | None,
    rng: torch.Generator | None,
    conditions: Mapping[str, Any],
) -> Tensor | tuple[Tensor, ...]:
    """Return the sum over G's outputs of their penalties; with reduction "none", the penalties of their elements."""
    evaluate = Evaluator(G, settings.layers)
    penalties = estimate(form, evaluate, z, settings, probes=probes, rng=rng, conditions=conditions).penalties
    if settings.reduction == "none":
        return penalties[0] if len(penalties) == 1 else tuple(penalties)
    return torch.stack(penalties).sum()


def estimate(
    form: Form,
    evaluate: Evaluator,
    z: Float[Tensor, "batch *latent"],
    settings: PenaltySettings,
    *,
    probes: Float[Tensor, "k batch *latent"] | None = None,
    rng: torch.Generator | None = None,
    conditions: Mapping[str, Any],
    recorded: Recorded | None = None,
) -> Estimate:
    """Estimate the penalty of every output of G; a recorded pass at z serves as one of the corners."""
    check_latents(z)
    signs = rademacher_probes(z, settings.k, rng) if probes is None else check_probes(probes, z, settings.k)
    groups = 1
    if settings.groups is not None:
        mask, groups = draw_groups(z, settings.groups, rng)
        signs = signs * mask
    passes = Passes(evaluate, z, conditions, recorded.start if recorded else None)
    with full_precision(z.device.type):
        steps = probe_steps(z, signs, settings.epsilon, scale_epsilon=settings.scale_epsilon)
        points = form.points(z, steps, known=recorded is not None)
        corners = Corners(form, passes, points, settings.k, settings.epsilon, recorded.outputs if recorded else None)
        penalties: list[Tensor] | None = None
        sparse = settings.sparse and torch.is_grad_enabled()  # without a graph there is nothing to save
        if sparse:
            penalties = _sparse(corners, settings)
        dense_only = sparse and penalties is None
        if penalties is None:
            penalties = _dense(corners, settings)
    if groups > 1:
        penalties = [groups * penalty for penalty in penalties]
    if settings.reduction == "max" and evaluate.process_group is not None:
        penalties = maxima_over_processes(penalties, evaluate.process_group)
    return Estimate(penalties, dense_only)


def _sparse(corners: Corners, settings: PenaltySettings) -> list[Tensor] | None:
    maxima = sparse_maxima(corners, settings.chunk_size)
    if maxima is None:
        if not corners.passes.draws or settings.gradient == "sparse":
            why = (
                "G draws random numbers, which one sample alone would not get"
                if corners.passes.draws
                else "the samples of a batch influence each other in G (batch normalisation in training mode, "
                "minibatch statistics?)"
            )
            warnings.warn(f"{why}, so the sparse gradient is not exact: using gradient='dense'", stacklevel=5)
        return None
    if not settings.scale_free:
        return maxima
    outputs = corners.known or next(corners.passes.at(corners.points[:1]))
    return _divide(maxima, batch_variances(outputs), corners.form.scale_power)


def _dense(corners: Corners, settings: PenaltySettings) -> list[Tensor]:
    outputs = corners.outputs(chunk_size=settings.chunk_size, require_function=True)
    variances = None
    if settings.scale_free:
        first = next(outputs)
        variances = batch_variances(corners.known or first)
        outputs = chain([first], outputs)
        del first
    penalties = []
    for index, gathered in enumerate(corners.form.gather(outputs, settings.k)):
        for part in gathered:
            check_finite(part, index)
        elements = corners.form.elements(gathered, settings.epsilon)
        if variances is not None:
            elements = elements / variances[index] ** corners.form.scale_power
        penalties.append(reduce_elements(elements, settings.reduction))
    return penalties


def _divide(maxima: list[Tensor], variances: list[Tensor], power: int) -> list[Tensor]:
    return [maximum / variance**power for maximum, variance in zip(maxima, variances, strict=True)]
