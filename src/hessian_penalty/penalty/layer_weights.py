"""Weights of layers in the sum of their penalties: layers of a G that grows fade in with their blocks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from hessian_penalty.penalty.arguments import check_number
from hessian_penalty.penalty.layers import LayerCapture


def check_layer_weights(capture: LayerCapture | None, layer_weights: Any) -> None:
    """Refuse weights where there are no layers to weigh, and what is no function.

    Raises:
        ValueError: G is penalised by its outputs.
        TypeError: `layer_weights` is not callable.
    """
    if layer_weights is None:
        return
    if capture is None:
        raise ValueError(
            "`layer_weights` weighs the layers of a penalty that was created with `layers`, got one of the outputs of "
            "G; name layers, or leave the weights out."
        )
    if not callable(layer_weights):
        raise TypeError(
            f"`layer_weights` must be a function of a layer's name, got {type(layer_weights).__name__}; pass "
            "`weights.__getitem__` for a dict."
        )


def weighted(penalties: Sequence[Tensor], order: Sequence[str], layer_weights: Callable[[str], float]) -> list[Tensor]:
    """Return the penalties times the weights of their layers, without those of weight 0, which may be infinite.

    Args:
        penalties: of the layers that ran.
        order: their names.
        layer_weights: the weight of a name, asked once for each.

    Raises:
        ValueError: a weight is negative or not finite.
        TypeError: it is no number.
    """
    weights = {name: layer_weights(name) for name in dict.fromkeys(order)}
    for name, weight in weights.items():
        check_number(f"layer_weights({name!r})", weight)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"`layer_weights({name!r})` must be a finite number, at least 0, got {weight}.")
    pairs = zip(penalties, order, strict=True)
    found = [penalty * float(weights[name]) for penalty, name in pairs if weights[name] > 0]
    return found or [penalties[0].new_zeros(())]
