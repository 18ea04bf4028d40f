"""What is made of outputs and of the penalties of elements: checks, the scale of an output, a scalar."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


class CollapsedError(ValueError):
    """An output of G is not finite, or does not vary: what a diverged training comes to."""


def check_finite(values: Tensor, index: int) -> None:
    """Refuse combinations of corners that hold an infinity or NaN.

    Raises:
        CollapsedError: an output of G is not finite.
    """
    if torch.isfinite(values.sum()):  # much faster than the count, and enough unless the sum overflows
        return
    broken = values.numel() - int(torch.isfinite(values).sum())
    if broken:
        raise CollapsedError(
            f"output {index} of `G` is not finite near `z`: {broken} of {values.numel()} values are infinite or NaN; "
            "check the weights of G, or lower the weight of the penalty if training diverges."
        )


def batch_variances(outputs: list[Tensor]) -> list[Float[Tensor, ""]]:
    """Return the unbiased variance over the batch of each output, averaged over its elements, with its gradient.

    Raises:
        ValueError: the batch has one sample.
        CollapsedError: an output does not vary over it.

    >>> batch_variances([torch.tensor([[1.0, 5.0], [3.0, 5.0]])])
    [tensor(1.)]
    """
    if outputs[0].shape[0] < 2:
        raise ValueError("`scale_free` takes a variance over the batch: `z` needs 2 samples or more, got 1.")
    variances = []
    for output in outputs:
        deviations = (output - output.mean(dim=0)).square().sum()
        variances.append(deviations / (output.numel() - output[0].numel()))
    for index, variance in enumerate(variances):
        if not variance > 0:
            raise CollapsedError(
                f"`scale_free` divides by the variance over the batch, but that of output {index} of `G` is "
                f"{variance.item():g}; a collapsed or constant output has no scale-free penalty."
            )
    return variances


def reduce_elements(elements: Tensor, reduction: str | Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce the penalties of one output's elements, over the batch too: "max", "mean", "none" or a callable.

    Raises:
        ValueError: a callable does not return a scalar tensor.

    >>> reduce_elements(torch.tensor([[1.0, 3.0]]), "mean")
    tensor(2.)
    """
    if callable(reduction):
        value = reduction(elements)
        if not isinstance(value, Tensor) or value.ndim != 0:
            got = f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"`reduction` must map a tensor to a scalar tensor, got {got}; use 'none' to keep elements."
            )
        return value
    if reduction == "none":
        return elements
    return elements.max() if reduction == "max" else elements.mean()
