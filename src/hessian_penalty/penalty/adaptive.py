"""A weight that follows the gradients: the penalty's is held at a fraction of the main loss's."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from hessian_penalty.penalty.arguments import check_number, check_whole
from hessian_penalty.penalty.distributed import average_over_processes


class AdaptiveWeight:
    r"""Weight under which the norm of the penalty's gradient is a set fraction of that of the main loss's.

    At each measurement $\log r = \log \lVert \nabla \mathcal{L}_\mathrm{main} \rVert - \log \lVert \nabla L_H \rVert$
    enters a moving average $m$, $m \leftarrow s_t m + (1 - s_t) \log r$ with $s_t = \min(s, t / (t + 1))$ after t
    earlier ones (so that the first few weigh the same), and the weight is $\mathrm{fraction} \cdot e^m$ within its
    bounds. A ratio varies by orders of magnitude, hence the logarithm.

    Args:
        fraction: of the main gradient's norm.
        interval: a measurement, which costs one more backward pass of both losses, is due every so many steps.
        smoothing: s, from 0 (the last measurement alone) to below 1.
        min_weight: lower bound of the weight.
        max_weight: upper bound of the weight.
        initial: the weight before there is a measurement.

    Raises:
        ValueError: an argument is outside its range.

    >>> weight = AdaptiveWeight(fraction=0.1)
    >>> weight.update(main_norm=2.0, penalty_norm=4.0)
    >>> round(weight.value, 6)
    0.05
    """

    # Not a multiple of 2: training steps that differ (every eighth with R1, say) must not always be the measured ones.
    INTERVAL: ClassVar[int] = 7
    SMOOTHING: ClassVar[float] = 0.9

    def __init__(
        self,
        fraction: float,
        *,
        interval: int = INTERVAL,
        smoothing: float = SMOOTHING,
        min_weight: float = 0.0,
        max_weight: float = math.inf,
        initial: float = 0.0,
    ) -> None:
        check_number("adaptive", fraction)
        check_whole("adaptive_interval", interval)
        if not fraction > 0:
            raise ValueError(f"`adaptive` must be a positive fraction of the main gradient's norm, got {fraction}.")
        if interval < 1:
            raise ValueError(f"`adaptive_interval` must be at least 1 step, got {interval}.")
        if not 0 <= smoothing < 1:
            raise ValueError(f"`adaptive_smoothing` must be at least 0 and below 1, got {smoothing}.")
        if not 0 <= min_weight <= max_weight:
            raise ValueError(
                f"`min_weight` and `max_weight` must satisfy 0 <= min_weight <= max_weight, got "
                f"{min_weight} and {max_weight}."
            )
        self.fraction = fraction
        self.interval = interval
        self.smoothing = smoothing
        self.min_weight = min_weight
        self.max_weight = max_weight
        self.initial = initial
        self.steps = 0
        self.measurements = 0
        self.log_ratio = 0.0

    def due(self) -> bool:
        """Count a step, and tell whether it is one at which to measure."""
        self.steps += 1
        return (self.steps - 1) % self.interval == 0

    def update(self, main_norm: float, penalty_norm: float) -> None:
        """Take a measurement into account, unless a norm is zero or not finite: then the weight stays."""
        if not all(math.isfinite(norm) and norm > 0 for norm in (main_norm, penalty_norm)):
            return
        measured = math.log(main_norm) - math.log(penalty_norm)
        smoothing = min(self.smoothing, self.measurements / (self.measurements + 1))
        self.log_ratio = smoothing * self.log_ratio + (1 - smoothing) * measured
        self.measurements += 1

    @property
    def value(self) -> float:
        """The present weight."""
        weight = self.fraction * math.exp(self.log_ratio) if self.measurements else self.initial
        return min(max(weight, self.min_weight), self.max_weight)

    def state_dict(self) -> dict[str, float]:
        """Return what has to survive an interruption, as plain floats."""
        return {
            "adaptive_steps": float(self.steps),
            "adaptive_measurements": float(self.measurements),
            "adaptive_log_ratio": self.log_ratio,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from a state."""
        self.steps = int(state["adaptive_steps"])
        self.measurements = int(state["adaptive_measurements"])
        self.log_ratio = state["adaptive_log_ratio"]


def gradient_norm(loss: Tensor, parameters: Sequence[Tensor], group: ProcessGroup | None = None) -> float:
    """Return the norm of the gradient over all parameters together; the graph stays, and no `.grad` is touched.

    With a process group, of the gradients averaged over its processes, in each of which it has to be called.

    >>> w = torch.tensor([3.0, 4.0], requires_grad=True)
    >>> gradient_norm((w**2).sum() / 2, [w])
    5.0
    """
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    if group is None:
        gradients = [gradient for gradient in found if gradient is not None]
    else:
        given = zip(parameters, found, strict=True)
        gradients = average_over_processes([torch.zeros_like(p) if g is None else g for p, g in given], group)
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0
