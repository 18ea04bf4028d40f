"""From a form to a penalty: probes, passes, reduction, and the gradient in its cheapest way."""

import sys
import warnings
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import parametrize

from hessian_penalty.penalty.arguments import check_generator
from hessian_penalty.penalty.compiler import outside_compiler
from hessian_penalty.penalty.distributed import maxima_over_processes
from hessian_penalty.penalty.elements import batch_variances, check_finite, reduce_elements
from hessian_penalty.penalty.evaluation import Evaluator, Passes, check_latents
from hessian_penalty.penalty.form import Corners, Form
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.probes import check_probes, draw_groups, probe_steps, rademacher_probes
from hessian_penalty.penalty.recorded import Recorded
from hessian_penalty.penalty.settings import PenaltySettings
from hessian_penalty.penalty.sparse import NotSparseError, sparse_maxima


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
    check_generator("rng", rng)
    signs = rademacher_probes(z, settings.k, rng) if probes is None else check_probes(probes, z, settings.k)
    groups = 1
    if settings.groups is not None:
        mask, groups = draw_groups(z, settings.groups, rng)
        signs = signs * mask
    passes = Passes(evaluate, z, conditions, recorded.start if recorded else None)
    with full_precision(z.device.type):
        steps = probe_steps(z, signs, settings.epsilon, scale_epsilon=settings.scale_epsilon)
        points = form.points(z, steps, known=recorded is not None)
        known = recorded.outputs if recorded else None
        corners = Corners(form, passes, points, settings.k, settings.epsilon, known, groups)
        # Without a graph there is nothing to save; cached parametrizations would be kept from a pass without one.
        sparse = (
            settings.sparse
            and torch.is_grad_enabled()
            and not evaluate.synchronises
            and not getattr(parametrize, "_cache_enabled", 0)
        )
        penalties = _sparse(corners, settings) if sparse else None
        dense_only = sparse and penalties is None
        if penalties is None:
            penalties = _dense(corners, settings)
    if settings.reduction == "max" and evaluate.process_group is not None:
        penalties = maxima_over_processes(penalties, evaluate.process_group)
    return Estimate(penalties, dense_only)


def _sparse(corners: Corners, settings: PenaltySettings) -> list[Tensor] | None:
    """Return the maxima with their sparse gradient, or None, with a warning unless that is to be expected."""
    try:
        maxima = sparse_maxima(corners, settings.chunk_size)
    except NotSparseError as reason:
        if not corners.passes.draws or settings.gradient == "sparse":
            warnings.warn(
                f"{reason}, so the sparse gradient is not exact: using gradient='dense'", stacklevel=_callers_level()
            )
        return None
    if not settings.scale_free:
        return maxima
    variances = batch_variances(corners.known or next(corners.passes.at(corners.points[:1])))
    power = corners.form.scale_power
    return [maximum / variance**power for maximum, variance in zip(maxima, variances, strict=True)]


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
        elements = corners.elements(gathered)
        if variances is not None:
            elements = elements / variances[index] ** corners.form.scale_power
        penalties.append(reduce_elements(elements, settings.reduction))
    return penalties


def _callers_level() -> int:
    """Return how far up the stack the code is that called this package, for a warning that points there."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith((__package__, "torch.")):
        frame, level = frame.f_back, level + 1
    return level
