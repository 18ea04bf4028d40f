"""The Hessian Penalty of any generator, as a function."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, overload

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.estimator import penalise
from hessian_penalty.penalty.form import Form
from hessian_penalty.penalty.settings import PenaltySettings


@overload
def hessian_penalty(
    G: Callable[..., Any], z: Tensor, *, reduction: Literal["none"], **options: Any
) -> Tensor | tuple[Tensor, ...]: ...


@overload
def hessian_penalty(
    G: Callable[..., Any],
    z: Tensor,
    *,
    reduction: Literal["max", "mean"] | Callable[[Tensor], Tensor] = ...,
    **options: Any,
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
    groups: str | Tensor | None = PenaltySettings.groups,
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

    All evaluations see the same random numbers and buffers, so G may have dropout, noise inputs or batch normalisation.
    They leave no trace but the random numbers of one forward pass, and run with autocast and reduced-precision float32
    kernels off. The first call for a G evaluates one corner twice, to notice a G that is not a function of z.

    Args:
        G: the generator, a callable from (batch, latent) to a tensor or a sequence of tensors, batch first. Wrapped in
            DistributedDataParallel it is evaluated without the wrapper, and a maximum is that over all processes.
        z: latents, float32 or float64; all further dimensions, where there are several, are latent components.
        k: number of probes, at least 2.
        epsilon: step of the second differences. Kinks (ReLU) are seen at this scale.
        reduction: over the batch and the elements of an output: "max" (the paper's choice for training), "mean" (for
            directions), "none" (the tensor of element penalties, or a tuple of them), or a callable to a scalar.
        gradient: "dense" keeps the graph of all 2k evaluations. "sparse" (max only) evaluates without a graph and
            repeats the samples that hold the maxima with it: same value and gradient for less time and memory, unless
            samples influence each other, which is noticed and answered by the dense form and a warning. "auto": sparse
            for max, and dense where G draws random numbers.
        layers: glob pattern, or several, of named modules of G ("synthesis.*.norm") to penalise instead of G's outputs.
            The passes stop after the last of them, except one, in which their order is learned.
        groups: count only pairs of components of the same group: "rows" for z of shape (batch, rows, latent), the w+ of
            a StyleGAN for instance, where each row is a group; or a tensor of labels, one for each component. Each
            sample draws one group and steps in it alone, so the cost is the same; the estimate, multiplied by the
            number of groups, is that of the sum over groups.
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
        ValueError: for values outside the above, a G that is not a function of z, outputs without the batch dimension,
            or outputs that are not finite.
        TypeError: for a z that is not float32 or float64, outputs that are no such tensors, a condition that G does not
            take, or `layers` without a module.

    Source: Peebles, Peebles, Zhu, Efros and Torralba, "The Hessian Penalty" (ECCV 2020), section 3.

    >>> z = torch.zeros(1, 2, dtype=torch.float64)
    >>> signs = torch.tensor([[[1.0, 1.0]], [[1.0, -1.0]]], dtype=torch.float64)
    >>> hessian_penalty(lambda z: z[:, 0] * z[:, 1], z, probes=signs).round(decimals=6)  # (2 - -2)^2 / 2 / 2
    tensor(4., dtype=torch.float64)
    """
    settings = PenaltySettings(k, epsilon, reduction, gradient, layers, groups, chunk_size, scale_free, scale_epsilon)
    return penalise(SecondDifferences(), G, z, settings, probes=probes, rng=rng, conditions=conditions)


class SecondDifferences(Form):
    r"""The Hessian Penalty of an element from its values at the two corners of each probe.

    $$L_H = \tfrac{1}{2} \mathrm{Var}_v\!\left[v^T H v\right], \qquad
      v^T H v \approx \frac{G(c + \epsilon v) - 2 G(c) + G(c - \epsilon v)}{\epsilon^2}$$

    with the unbiased variance over the k probes; $G(c)$ is the same for all of them and drops out. The centre c is z,
    or $z + \epsilon v_1$ where G(z) is known: then z is the second corner, and 2k - 1 evaluations are left.

    Source: Peebles et al., "The Hessian Penalty" (ECCV 2020), section 3.
    """

    scale_power = 1
    known_corner = 1

    def points(self, z: Tensor, steps: Tensor, *, known: bool) -> Tensor:
        """Return z + steps and z - steps, the two corners of a probe next to each other.

        >>> SecondDifferences().points(torch.zeros(1, 1), torch.tensor([[[0.5]], [[-0.5]]]), known=True).flatten()
        tensor([1., 0., 0., 1.])
        """
        centre = z + steps[0] if known else z
        return torch.stack((centre + steps, centre - steps), dim=1).flatten(0, 1)

    def gather(self, corners: Iterator[list[Tensor]], k: int) -> list[list[Tensor]]:
        """Return, for every output, the sum over the corners of probe 1 minus that of each of the other k - 1.

        >>> SecondDifferences().gather(iter([[torch.tensor([x])] for x in (1.0, 2.0, 3.0, 5.0)]), k=2)
        [[tensor([-5.])]]
        """
        # Only what is needed later is kept: one tensor of each output for k = 2, beside those of the running pass.
        first, second = next(corners), next(corners)
        references = [a + b for a, b in zip(first, second, strict=True)]
        del first, second
        differences: list[list[Tensor]] = [[] for _ in references]
        for probe in range(1, k):
            last = probe == k - 1
            for found, reference, plus in zip(differences, references, next(corners), strict=True):
                found.append(reference.sub_(plus) if last else reference - plus)
            for found, minus in zip(differences, next(corners), strict=True):
                found[-1].sub_(minus)
        return differences

    def elements(self, gathered: list[Tensor], epsilon: float) -> Tensor:
        """Return the estimate of every element.

        >>> SecondDifferences().elements([torch.tensor([0.04])], 0.1)  # v^T H v = 2 and -2: H = [[0, 1], [1, 0]]
        tensor([4.])
        """
        # Many times faster than torch.var along the first of several dimensions, and exact for k = 2: d^2 / 2.
        k = len(gathered) + 1
        if k == 2:
            return gathered[0].square() * (0.25 / epsilon**4)
        differences = torch.stack(gathered)  # (k - 1, batch, ...)
        deviations = differences.square().sum(dim=0) - differences.sum(dim=0).square() / k
        return deviations * (0.5 / (k - 1) / epsilon**4)

    def rounding(self, corners: list[Tensor], epsilon: float) -> float:
        r"""Return $u \max|G| / \epsilon^2$, the rounding of a second difference, with u the unit roundoff."""
        return torch.finfo(corners[0].dtype).eps / 2 * float(corners[0].abs().max()) / epsilon**2
