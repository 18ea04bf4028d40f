"""A pass of the training loop, kept so that it can serve the penalty as one of its corners."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hessian_penalty.penalty.evaluation import Evaluator, as_outputs
from hessian_penalty.penalty.layers import Captured, intact
from hessian_penalty.penalty.precision import is_full_precision
from hessian_penalty.penalty.replay import Replay, State


@dataclass(frozen=True)
class Recorded:
    """The outputs of G, or of its layers, at z, with the state in which that pass began.

    Attributes:
        z: the latents.
        conditions: the further arguments.
        captured: the outputs, each with its version.
        start: random numbers and buffers before the pass.
        parameters: version of each parameter.
    """

    z: Captured
    conditions: Mapping[str, Any]
    captured: list[Captured]
    start: State
    parameters: list[int]

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
            and (not torch.is_grad_enabled() or self._has_graph(evaluate.G))
        )

    def _has_graph(self, G: Callable[..., Any]) -> bool:
        trainable = isinstance(G, nn.Module) and any(parameter.requires_grad for parameter in G.parameters())
        return not trainable or any(captured.output.requires_grad for captured in self.captured)


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
    if capture is None:
        result = G(z, **conditions)
        found = [Captured.of(output) for output in as_outputs(result)]
    else:
        with capture.listen() as found:
            result = G(z, **conditions)
    return result, Recorded(Captured.of(z), dict(conditions), found, replay.before(), _versions(evaluate.G))


def _versions(G: Callable[..., Any]) -> list[int]:
    return [parameter._version for parameter in G.parameters()] if isinstance(G, nn.Module) else []
