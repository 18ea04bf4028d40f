"""A pass of the training loop, kept so that it can serve the penalty as one of its corners."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.penalty.evaluation import Evaluator, as_outputs
from hessian_penalty.penalty.layers import Captured, intact
from hessian_penalty.penalty.precision import is_full_precision
from hessian_penalty.penalty.reachable import reachable
from hessian_penalty.penalty.replay import Replay, State


@dataclass(frozen=True)
class Recorded:
    """The outputs of G, or of its layers, at z, with the state in which that pass began.

    Attributes:
        z: the latents.
        conditions: the further arguments.
        captured: the outputs, each with its version.
        start: random numbers and buffers before the pass.
        parameters: identity and version of each parameter, and whether each module is in training mode.
        with_graph: whether gradients were on.
    """

    z: Captured
    conditions: Mapping[str, Any]
    captured: list[Captured]
    start: State
    parameters: list[tuple[int, int]]
    with_graph: bool

    @property
    def outputs(self) -> list[Tensor]:
        """The outputs, with their graph."""
        return [captured.output for captured in self.captured]

    def fits(self, evaluate: Evaluator, z: Tensor, conditions: Mapping[str, Any]) -> bool:
        """Tell whether another pass at z would give the same: nothing was changed since."""
        return (
            z is self.z.output
            and intact([self.z, *self.captured])
            and conditions.keys() == self.conditions.keys()
            and all(conditions[name] is value for name, value in self.conditions.items())
            and _versions(evaluate.G) == self.parameters
            and (self.with_graph or not torch.is_grad_enabled())
        )


def record(
    evaluate: Evaluator, G: Callable[..., Any], z: Tensor, conditions: Mapping[str, Any]
) -> tuple[Any, Recorded | None]:
    """Call G, and record the pass unless it runs in reduced precision or compiled, where layers cannot be read.

    >>> images, recorded = record(Evaluator(torch.sin), torch.sin, torch.zeros(1, 2), {})
    >>> images, recorded.outputs
    (tensor([[0., 0.]]), [tensor([[0., 0.]])])
    """
    capture = evaluate.capture
    if not is_full_precision(z.device.type) or (capture is not None and capture.compiled):
        return G(z, **conditions), None
    replay = Replay(evaluate.G, conditions, z.device)
    start = replay.state()
    if capture is None:
        result = G(z, **conditions)
        outputs = as_outputs(result)
        if not all(isinstance(output, Tensor) for output in outputs):  # the penalty will say so
            return result, None
        found = [Captured.of(output) for output in outputs]
    else:
        with capture.listen() as found:
            result = G(z, **conditions)
    if not found:  # the layers ran inside a compiled module, past the hooks
        return result, None
    return result, Recorded(
        Captured.of(z),
        dict(conditions),
        found,
        replay.after_pass(start),
        _versions(evaluate.G),
        torch.is_grad_enabled(),
    )


def _versions(G: Callable[..., Any]) -> list[tuple[int, int]]:
    modules, _ = reachable(G)
    parameters = [(id(p), p._version) for module in modules for p in module.parameters(recurse=False)]
    return parameters + [(id(module), int(module.training)) for module in modules]
