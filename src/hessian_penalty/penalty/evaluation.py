"""Evaluating G at many points around each latent: the one place through which every pass goes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.conditions import Conditions, check_conditions
from hessian_penalty.penalty.layers import LayerCapture


class Evaluator:
    """Calls G, or reads its layers, and returns a list of outputs whose first dimension is the number of rows.

    Args:
        G: any callable from latents to a tensor or a sequence of tensors.
        conditions: further keyword arguments of G, checked against its signature.
        layers: patterns of named modules to read instead of G's own outputs.

    Raises:
        TypeError: G does not take a condition, `layers` is given for something that is no module, or an output is not a
            floating tensor of at least 32 bits.
        ValueError: a layer pattern matches nothing, or an output's first dimension is not the number of rows.

    >>> Evaluator(lambda z: [z, 2 * z], {})(torch.ones(2, 1), {})
    [tensor([[1.],
            [1.]]), tensor([[2.],
            [2.]])]
    """

    def __init__(
        self, G: Callable[..., Any], conditions: Mapping[str, Any], layers: str | Sequence[str] | None = None
    ) -> None:
        check_conditions(G, conditions)
        self._capture = None if layers is None else LayerCapture(G, layers)
        self._G = G
        self._count: int | None = None

    def __call__(self, z: Tensor, conditions: Mapping[str, Any]) -> list[Tensor]:
        """Run one pass over the rows of z."""
        result = self._G(z, **conditions) if self._capture is None else self._capture(z, conditions)
        if isinstance(result, Tensor):
            result = [result]
        elif not isinstance(result, list | tuple) or not result:
            raise TypeError(
                f"`G` must return a tensor or a sequence of tensors, got {_describe(result)}; wrap G in a function "
                "that picks the tensors to penalise."
            )
        for index, output in enumerate(result):
            _check_output(output, index, rows=z.shape[0])
        if self._count not in (None, len(result)):
            raise ValueError(
                f"`G` must return as many outputs in every pass, got {self._count} and then {len(result)}; hold the "
                "state of G fixed during the penalty."
            )
        self._count = len(result)
        return list(result)


def evaluate_corners(
    evaluate: Evaluator,
    points: Float[Tensor, "corners batch *latent"],
    conditions: Conditions,
    chunk_size: int | None = None,
) -> Iterator[list[Tensor]]:
    """Yield G's outputs at each corner, in order: for every output a tensor of shape (batch, ...).

    One pass takes whole batches: `max(1, chunk_size // batch)` corners one after the other, never a part of a batch.
    None takes one corner a pass: the least memory, and for a G whose samples influence each other the only right way.
    For any other G the values do not depend on it.

    >>> corners = torch.tensor([[[0.0]], [[1.0]], [[2.0]]])
    >>> [out[0].item() for out in evaluate_corners(Evaluator(torch.exp, {}), corners, Conditions({}, {}), chunk_size=2)]
    [1.0, 2.7182817459106445, 7.389056205749512]
    """
    batch = points.shape[1]
    corners_per_pass = 1 if chunk_size is None else max(1, chunk_size // batch)
    for chunk in torch.split(points, corners_per_pass):
        outputs = evaluate(chunk.flatten(0, 1), conditions.repeat(len(chunk)))  # (corners * batch, ...)
        yield from map(list, zip(*(output.reshape(-1, batch, *output.shape[1:]) for output in outputs), strict=True))


def check_latents(z: Tensor) -> None:
    """Refuse latents without a batch, or without the precision that second differences need.

    Raises:
        TypeError: z is not a float32 or float64 tensor.
        ValueError: z has fewer than two dimensions or is empty.
    """
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"`z` must be float32 or float64, since second differences lose everything in fewer bits, got {z.dtype}; "
            "pass z.float() and keep the parameters of G in float32."
        )
    if z.ndim < 2 or 0 in z.shape:
        raise ValueError(
            f"`z` must have the shape (batch, latent) with at least one of each, got {tuple(z.shape)}; pass z[None] "
            "for one latent vector."
        )


def check_finite(values: Tensor, index: int) -> None:
    """Refuse sums over corners that hold an infinity or NaN.

    Raises:
        ValueError: an output of G is not finite.
    """
    if torch.isfinite(values.sum()):  # much faster than the count, and enough unless the sum overflows
        return
    broken = values.numel() - int(torch.isfinite(values).sum())
    if broken:
        raise ValueError(
            f"output {index} of `G` is not finite near `z`: {broken} of {values.numel()} values are infinite or NaN; "
            "check the weights of G, or lower the weight of the penalty if training diverges."
        )


def _check_output(output: Any, index: int, rows: int) -> None:
    if not isinstance(output, Tensor) or output.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"output {index} of `G` must be a float32 or float64 tensor, got {_describe(output)}; run G in full "
            "precision and pick the tensors to penalise."
        )
    if output.ndim == 0 or output.shape[0] != rows:
        raise ValueError(
            f"output {index} of `G` must have one row for each of the {rows} latents, got the shape "
            f"{tuple(output.shape)}; put the batch first."
        )


def _describe(value: Any) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else f"{type(value).__name__}"
