"""From outputs at the corners to the penalty of each element, and from elements to a scalar."""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def pair_sums(corners: Iterable[list[Tensor]]) -> list[Float[Tensor, "k batch ..."]]:
    r"""Add up the two corners of each probe, $G(z + \epsilon v) + G(z - \epsilon v)$, for every output of G.

    Args:
        corners: outputs at $z + \epsilon v_1, z - \epsilon v_1, z + \epsilon v_2, \dots$; read one at a time.

    >>> pair_sums([[torch.tensor([1.0])], [torch.tensor([2.0])], [torch.tensor([3.0])], [torch.tensor([4.0])]])
    [tensor([[3.],
            [7.]])]
    """
    sums: list[list[Tensor]] = []
    remaining: Iterator[list[Tensor]] = iter(corners)
    for forward in remaining:
        sums.append([plus + minus for plus, minus in zip(forward, next(remaining), strict=True)])
    return [torch.stack(of_output) for of_output in zip(*sums, strict=True)]  # (k, batch, ...)


def element_penalties(sums: Float[Tensor, "k batch *element"], epsilon: float) -> Float[Tensor, "batch *element"]:
    r"""Estimate the penalty of each element from its pair sums.

    $$L_H = \tfrac{1}{2} \mathrm{Var}_v\!\left[v^T H v\right], \qquad
      v^T H v \approx \frac{G(z + \epsilon v) - 2 G(z) + G(z - \epsilon v)}{\epsilon^2}$$

    with the unbiased variance over the k probes; $G(z)$ is the same for all of them and drops out. The estimate of each
    element, and so any mean of them, is unbiased; a maximum of estimates is biased upwards.

    Source: Peebles et al., "The Hessian Penalty" (ECCV 2020), section 3.

    >>> element_penalties(torch.tensor([[0.02], [-0.02]]), epsilon=0.1)  # v^T H v = 2 and -2: H = [[0, 1], [1, 0]]
    tensor([4.])
    """
    # Many times faster than torch.var along the first of several dimensions, and exact for k = 2: d^2 / 2.
    k = sums.shape[0]
    differences = sums[1:] - sums[:1]
    deviations = differences.square().sum(dim=0) - differences.sum(dim=0).square() / k
    return deviations * (0.5 / (k - 1) / epsilon**4)


def batch_variances(outputs: list[Tensor]) -> list[Float[Tensor, ""]]:
    """Return the unbiased variance over the batch of each output, averaged over its elements, with its gradient.

    Raises:
        ValueError: the batch has one sample, or an output does not vary over it.

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
            raise ValueError(
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
