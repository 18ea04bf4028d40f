"""Entries of Hessians by automatic differentiation, for smooth generators, checked by a second way to differentiate."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.precision import full_precision

VALUES_PER_ROW = 4  # beside its value, a row carries two first derivatives and the second one


class Differentiator(Evaluator):
    r"""Evaluates G, or its second derivatives where a row holds a latent with two directions, (rows, 3, latent).

    Forward mode over forward mode gives $\partial_a \partial_b G$ without a graph, however many output elements
    there are. All samples move at once, so they stay separate as long as they do not influence each other in G.

    Raises:
        NotImplementedError: an operation of G has no derivative of this kind.

    >>> points = torch.tensor([[[2.0, 3.0], [1.0, 0.0], [0.0, 1.0]]])  # d^2 / dz_0 dz_1 at (2, 3)
    >>> Differentiator(lambda z: z[:, 0] ** 2 * z[:, 1])(points, {})
    [tensor([4.])]
    """

    def __call__(
        self, z: Tensor, conditions: Mapping[str, Any], most_outputs: int | None = None
    ) -> list[Tensor] | None:
        """Run one pass over the rows of z."""
        if z.ndim == 2:
            return super().__call__(z, conditions)
        z, a, b = (part.contiguous() for part in z.unbind(dim=1))  # (rows, latent) each
        evaluate = super().__call__

        def derivative(z: Tensor) -> list[Tensor]:
            first: list[Tensor] = torch.func.jvp(lambda z: evaluate(z, conditions), (z,), (a,))[1]
            return first

        try:
            second: list[Tensor] = torch.func.jvp(derivative, (z,), (b,))[1]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # G itself ran before: this comes from its differentiation
            raise _refusal(error) from error
        return second


def autodiff_entries(
    passes: Passes, z: Tensor, directions: Tensor, chunk_size: int | None = None
) -> Iterator[tuple[int, int, Tensor]]:
    r"""Yield i, j and $\partial_{d_i} \partial_{d_j} G$ for the diagonal, then for the upper triangle.

    Before the first entry one more second derivative is computed in this way and by two backward passes. For some
    operations (layer and instance normalisation in PyTorch 2.13) they differ, as the forward one is wrong.

    Args:
        passes: of a `Differentiator` of G, which has one output and has been evaluated at z before.
        z: latents, (batch, latent).
        directions: one a row.
        chunk_size: most rows of which a pass may hold the values; with its derivatives a row counts as four.

    Raises:
        NotImplementedError: an operation of G cannot be differentiated twice in both ways, or they disagree.
        ValueError: G is constant or detached from z, or a derivative is not finite.

    >>> z, axes = torch.tensor([[2.0, 3.0]]), torch.eye(2)
    >>> passes = Passes(Differentiator(lambda z: z[:, 0] ** 2 * z[:, 1]), z, {})
    >>> [(i, j, values.item()) for i, j, values in autodiff_entries(passes, z, axes)]
    [(0, 0, 6.0), (1, 1, 0.0), (0, 1, 4.0)]
    """
    _check_against_backward(passes, z, directions)
    count = len(directions)
    pairs = torch.tensor([*((i, i) for i in range(count)), *combinations(range(count), 2)])
    rows = max(1, (chunk_size or 0) // VALUES_PER_ROW)
    for group in torch.split(pairs, max(1, rows // z.shape[0])):
        # The switches are off again before a caller of the iterator goes on.
        with torch.no_grad(), full_precision(z.device.type):
            points = _points(z, directions[group[:, 0]], directions[group[:, 1]])
            values = [second for (second,) in passes.at(points, chunk_size=rows)]
        for (i, j), entry in zip(group.tolist(), values, strict=True):
            _check_derivative(entry, i, j)
            yield i, j, entry


def _points(z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return every latent with every pair of directions, one pair after the other: (pairs, batch, 3, latent)."""
    shape = (len(a), *z.shape)
    return torch.stack((z.expand(shape), a[:, None].expand(shape), b[:, None].expand(shape)), dim=2)


def _check_against_backward(passes: Passes, z: Tensor, directions: Tensor) -> None:
    """Compare a random sum of second derivatives in one random direction with that of two backward passes."""
    rng = torch.Generator().manual_seed(0)  # torch's global generator is the caller's
    # A tensor made in inference mode cannot be saved for a backward pass.
    with torch.inference_mode(False), torch.no_grad(), full_precision(z.device.type):
        along = torch.randn(1, len(directions), generator=rng, dtype=torch.float64).to(z) @ directions  # (1, latent)
        ((forward,),) = passes.at(_points(z, along, along))  # (batch, *output)
        signs = torch.randint(0, 2, forward.shape, generator=rng).to(forward) * 2 - 1
        output, backward = _second_backward(passes, z, along, signs)
        difference = abs(float((signs * forward).sum()) - backward)
        allowed = torch.finfo(forward.dtype).eps ** 0.5 * float(forward.norm() + output.norm())
    if difference > allowed:
        raise NotImplementedError(
            "`method='autodiff'` cannot be trusted with this `G`: a second derivative in forward mode and by two "
            f"backward passes differ by {difference:.3g}, where rounding explains {allowed:.3g} at most. PyTorch's "
            "forward mode is wrong for some operations (layer_norm and instance_norm, for instance); write them in "
            "elementary ones, or use method='differences'."
        )


def _second_backward(passes: Passes, z: Tensor, along: Tensor, signs: Tensor) -> tuple[Tensor, float]:
    """Return G at z, and the second derivative in t at 0 of the signed sum of G(z + t along)."""
    try:
        with torch.enable_grad():
            t = z.new_zeros((), requires_grad=True)
            ((output,),) = passes.at((z + t * along)[None])
            first = _gradient((signs * output).sum(), t)
            if first is None:
                raise ValueError(
                    "`method='autodiff'` finds no way from `z` to the output of `G`: G is constant, detaches z or runs "
                    "under torch.no_grad; use method='differences', which needs values only."
                )
            second = _gradient(first, t)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise _refusal(error) from error
    return output.detach(), 0.0 if second is None else float(second.detach())  # none where G is linear


def _gradient(value: Tensor, t: Tensor) -> Tensor | None:
    if not value.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(value, t, create_graph=True, allow_unused=True)
    return gradient


def _refusal(error: RuntimeError) -> NotImplementedError:
    reason = str(error).splitlines()[0]
    return NotImplementedError(
        f"`method='autodiff'` differentiates `G` twice, which an operation of it does not allow ({reason}); use "
        "method='differences', which needs values only."
    )


def _check_derivative(entry: Tensor, i: int, j: int) -> None:
    broken = entry.numel() - int(torch.isfinite(entry).sum())
    if broken:
        raise ValueError(
            f"the second derivative of `G` is not finite in entry ({i}, {j}): {broken} of {entry.numel()} values are "
            "infinite or NaN, although G itself is finite; use method='differences', which is finite where G is."
        )
