"""Whole Hessians for few latents, by finite differences or autodiff: pictures of them, and measures made from them."""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.autodiff import Differentiator, autodiff_entries
from hessian_penalty.penalty.elements import check_finite
from hessian_penalty.penalty.evaluation import Evaluator, Passes, check_latents
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.settings import PenaltySettings, check_chunk_size, check_epsilon

METHODS = ("differences", "autodiff")


class HessianEntry(NamedTuple):
    """Row i, column j >= i, and the entry of every sample and output element, of shape (batch, *output)."""

    i: int
    j: int
    values: Tensor


def hessian_entries(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    basis: Float[Tensor, "count latent"] | None = None,
    method: str = "differences",
    chunk_size: int | None = None,
    **conditions: Any,
) -> Iterator[HessianEntry]:
    r"""Yield the entries of the upper triangle one by one, so that no one has to hold them all.

    With $d_i$ the rows of the basis, and without gradient,

    $$H_{ii} = \frac{G(z + \epsilon d_i) - 2 G(z) + G(z - \epsilon d_i)}{\epsilon^2}, \qquad
      H_{ij} = \frac{G_{++} - G_{+-} - G_{-+} + G_{--}}{4 \epsilon^2}, \quad
      G_{\pm\pm} = G(z \pm \epsilon d_i \pm \epsilon d_j).$$

    Both are second differences at the scale $\epsilon$, as the penalty takes: for two latents the penalty over all
    signs is exactly $2 H_{12}^2$, at any epsilon and with kinks. There are $1 + 2n + 2n(n - 1)$ evaluations of z.

    `method="autodiff"` takes the limit $\epsilon \to 0$ instead, $d_i^T \nabla^2 G(z)\, d_j$, by forward-mode automatic
    differentiation, and `epsilon` has no effect. For a smooth G the two differ by $O(\epsilon^2)$. They part at kinks:
    of a network with ReLU-like activations autodiff sees the smooth pieces only and misses the curvature that sits
    between them, so that a pure ReLU network has the autodiff Hessian 0 almost everywhere, however much it bends.
    Differences see a kink within $\epsilon$ of z, with a curvature of order $1/\epsilon$. So differences are what the
    penalty means, and autodiff is a reference for smooth networks.

    Args:
        G: the generator; it returns one tensor.
        z: latents.
        epsilon: step.
        basis: directions to differentiate along, in rows; None takes the coordinates. For orthonormal rows A the result
            is $A H A^T$, the Hessian in the coordinates of A.
        method: "differences" or "autodiff".
        chunk_size: most rows (points times samples) in one pass, at least one batch; None is one batch. With autodiff a
            row counts four times, as it carries three derivatives.
        conditions: further arguments of G; tensors whose first dimension is the batch follow the samples.

    Raises:
        ValueError: an epsilon, method, chunk size, basis or output that cannot be used; with autodiff, an output
            detached from z, or a derivative that is not finite.
        TypeError: G returns several outputs, or does not take a condition.
        NotImplementedError: autodiff cannot differentiate G twice, or would do so wrongly.

    >>> z = torch.zeros(1, 2, dtype=torch.float64)
    >>> [(i, j, round(values.item(), 6)) for i, j, values in hessian_entries(lambda z: z.prod(dim=1), z)]
    [(0, 0, 0.0), (1, 1, 0.0), (0, 1, 1.0)]
    """
    if method not in METHODS:
        raise ValueError(
            f"`method` must be one of {', '.join(map(repr, METHODS))}, got {method!r}; use 'differences' unless G is "
            "smooth."
        )
    check_epsilon(epsilon)
    check_chunk_size(chunk_size)
    check_latents(z)
    directions = basis_rows(z, basis)
    # The generator functions below start at the first `next`; the checks are due now.
    if method == "autodiff":
        return _derivatives(Passes(Differentiator(G), z, conditions), z, directions, chunk_size)
    return _differences(Passes(Evaluator(G), z, conditions), z, epsilon * directions, epsilon, chunk_size)


def hessians(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    basis: Float[Tensor, "count latent"] | None = None,
    method: str = "differences",
    chunk_size: int | None = None,
    **conditions: Any,
) -> Float[Tensor, "batch count count *output"]:
    """Return the Hessian of every output element: `result[s, :, :, *element]` for sample s.

    It holds batch x count x count x elements numbers: for images prefer `hessian_energy` or `hessian_entries`.
    Arguments and errors are those of `hessian_entries`.

    >>> hessians(lambda z: z.prod(dim=1), torch.ones(1, 2, dtype=torch.float64)).round(decimals=6)[0]
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    count = z.shape[1] if basis is None else basis.shape[0]
    result: Tensor | None = None
    for i, j, values in hessian_entries(
        G, z, epsilon=epsilon, basis=basis, method=method, chunk_size=chunk_size, **conditions
    ):
        if result is None:
            result = values.new_empty((z.shape[0], count, count, *values.shape[1:]))
        result[:, i, j] = result[:, j, i] = values
    assert result is not None  # a basis has at least one row
    return result


def hessian_energy(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    basis: Float[Tensor, "count latent"] | None = None,
    method: str = "differences",
    chunk_size: int | None = None,
    **conditions: Any,
) -> Float[Tensor, "count count"]:
    r"""Return the mean of $H_{ij}^2$ over samples and output elements.

    Its off-diagonal entries sum to the expected Hessian Penalty with mean reduction; their share of the whole sum is
    free of the scale of G. Arguments and errors are those of `hessian_entries`.

    >>> hessian_energy(lambda z: 3 * z.prod(dim=1), torch.ones(4, 2, dtype=torch.float64)).round(decimals=6)
    tensor([[0., 9.],
            [9., 0.]], dtype=torch.float64)
    """
    entries = hessian_entries(G, z, epsilon=epsilon, basis=basis, method=method, chunk_size=chunk_size, **conditions)
    return _matrix_of((i, j, values.square().mean()) for i, j, values in entries)


def mean_absolute_hessian(
    G: Callable[..., Any],
    z: Float[Tensor, "batch latent"],
    *,
    epsilon: float = PenaltySettings.epsilon,
    basis: Float[Tensor, "count latent"] | None = None,
    method: str = "differences",
    chunk_size: int | None = None,
    **conditions: Any,
) -> Float[Tensor, "count count"]:
    r"""Return the mean of $|H_{ij}|$ over samples and output elements: the picture of a Hessian.

    Arguments and errors are those of `hessian_entries`.

    >>> mean_absolute_hessian(lambda z: -3 * z.prod(dim=1), torch.ones(4, 2, dtype=torch.float64)).round(decimals=6)
    tensor([[0., 3.],
            [3., 0.]], dtype=torch.float64)
    """
    entries = hessian_entries(G, z, epsilon=epsilon, basis=basis, method=method, chunk_size=chunk_size, **conditions)
    return _matrix_of((i, j, values.abs().mean()) for i, j, values in entries)


def check_vectors(z: Tensor) -> None:
    """Refuse latents with further dimensions, in which a Hessian is no matrix.

    Raises:
        ValueError: z is no batch of vectors.
    """
    if z.ndim != 2:
        raise ValueError(f"`z` must have the shape (batch, latent) for a Hessian, got {tuple(z.shape)}.")


def basis_rows(z: Tensor, basis: Tensor | None) -> Tensor:
    """Return the directions to differentiate along, in rows, like z in dtype and device.

    Raises:
        ValueError: z is no batch of vectors, or the basis does not fit it.
    """
    check_vectors(z)
    if basis is None:
        return torch.eye(z.shape[1]).to(z)
    if basis.ndim != 2 or basis.shape[1] != z.shape[1] or basis.shape[0] == 0:
        raise ValueError(
            f"`basis` must hold one direction a row, (count, {z.shape[1]}) for these latents, got "
            f"{tuple(basis.shape)}; transpose it if its columns are the directions."
        )
    return basis.to(z)


def evaluate_around(passes: Passes, z: Tensor, displacements: Tensor, chunk_size: int | None) -> Tensor:
    """Return G at z + displacement for every row: (rows, batch, *output)."""
    # The switches are off again before a caller of the iterator goes on.
    with torch.no_grad(), full_precision(z.device.type):
        points = z + displacements[:, None]  # (rows, batch, latent)
        corners = list(passes.at(points, chunk_size=chunk_size))
        if len(corners[0]) != 1:
            raise TypeError(
                f"`G` must return one tensor for a Hessian, got {len(corners[0])}; wrap G to pick one of them."
            )
        values = torch.stack([outputs[0] for outputs in corners])
    check_finite(values, 0)
    return values


def _derivatives(passes: Passes, z: Tensor, directions: Tensor, chunk_size: int | None) -> Iterator[HessianEntry]:
    # An error of G's own comes from this pass, as it is; a later one is due to the differentiation.
    evaluate_around(passes, z, torch.zeros_like(directions[:1]), chunk_size)
    yield from map(HessianEntry._make, autodiff_entries(passes, z, directions, chunk_size))


def _differences(
    passes: Passes, z: Tensor, steps: Tensor, epsilon: float, chunk_size: int | None
) -> Iterator[HessianEntry]:
    (centre,) = evaluate_around(passes, z, torch.zeros_like(steps[:1]), chunk_size)
    at_once = max(1, (chunk_size or 0) // (4 * z.shape[0]))  # entries whose corners share a pass
    for group in torch.split(torch.arange(len(steps)), 2 * at_once):
        corners = torch.stack((steps[group], -steps[group]), dim=1).flatten(0, 1)
        values = evaluate_around(passes, z, corners, chunk_size)
        for i, (plus, minus) in zip(group.tolist(), values.reshape(-1, 2, *values.shape[1:]), strict=True):
            yield HessianEntry(i, i, (plus - 2 * centre + minus) / epsilon**2)
    if len(steps) == 1:
        return
    pairs = torch.tensor(list(combinations(range(len(steps)), 2)))
    for group in torch.split(pairs, at_once):
        a, b = steps[group[:, 0]], steps[group[:, 1]]
        corners = torch.stack((a + b, a - b, b - a, -a - b), dim=1).flatten(0, 1)  # (4 * pairs, latent)
        values = evaluate_around(passes, z, corners, chunk_size)
        for (i, j), (pp, pm, mp, mm) in zip(group.tolist(), values.reshape(-1, 4, *values.shape[1:]), strict=True):
            yield HessianEntry(i, j, (pp - pm - mp + mm) / (4 * epsilon**2))


def _matrix_of(entries: Iterator[tuple[int, int, Tensor]]) -> Tensor:
    found = list(entries)
    count = 1 + max(i for i, _, _ in found)
    matrix = found[0][2].new_empty((count, count))
    for i, j, value in found:
        matrix[i, j] = matrix[j, i] = value
    return matrix
