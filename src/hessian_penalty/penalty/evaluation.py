"""Evaluating G at many points around each latent: the one place through which every pass goes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hessian_penalty.penalty.arguments import check_tensor
from hessian_penalty.penalty.conditions import Conditions, check_conditions
from hessian_penalty.penalty.known_functions import foreign_generators, is_known_function, remember_function
from hessian_penalty.penalty.layers import Captured, LayerCapture, intact
from hessian_penalty.penalty.reachable import reachable
from hessian_penalty.penalty.replay import Replay, State

ROUNDING_ALLOWANCE = 32.0  # roundings of a deep network, whose kernels differ with the number of rows


class Evaluator:
    """What is evaluated: a generator, by its own outputs or by those of some of its layers.

    Args:
        G: any callable from latents to a tensor or a sequence of tensors. DistributedDataParallel is taken off, since
            its forward pass talks to other processes, which may need another number of passes; so is the wrapper of
            Lightning Fabric, which turns autocast on.
        layers: patterns of named modules to read instead of G's own outputs.

    Raises:
        TypeError: G is not callable, or `layers` is given for something that is no module.
        ValueError: a layer pattern matches nothing.

    >>> Evaluator(lambda z: [z, 2 * z])(torch.ones(2, 1), {})
    [tensor([[1.],
            [1.]]), tensor([[2.],
            [2.]])]
    """

    def __init__(self, G: Callable[..., Any], layers: str | Sequence[str] | None = None) -> None:
        if not callable(G):
            raise TypeError(
                f"`G` must be callable, got {type(G).__name__}; pass a module or a function of the latents."
            )
        self.G, self.process_group = _unwrapped(G)
        self.capture = None if layers is None else LayerCapture(getattr(self.G, "_orig_mod", self.G), layers)

    def __call__(
        self, z: Tensor, conditions: Mapping[str, Any], most_outputs: int | None = None
    ) -> list[Tensor] | None:
        """Run one pass over the rows of z; None if it has to be repeated (see `LayerCapture`).

        Args:
            z: latents.
            conditions: further arguments of G.
            most_outputs: how many outputs are needed; the pass ends after the last of them where it can.

        Raises:
            TypeError: an output is not a floating tensor of at least 32 bits.
            ValueError: an output's first dimension is not the number of rows.
        """
        if self.capture is not None:
            outputs = self.capture(z, conditions, most_outputs)
        else:
            outputs = as_outputs(self.G(z, **conditions))[:most_outputs]
        for index, output in enumerate(outputs or ()):
            _check_output(output, index, rows=z.shape[0])
        return outputs

    @property
    def synchronises(self) -> bool:
        """Whether the passes of several processes wait for each other, so that all must make as many."""
        return self.process_group is not None and any(
            isinstance(module, nn.SyncBatchNorm) and module.training for module in reachable(self.G)[0]
        )


class Passes:
    """The passes of one call, which all begin in the same state and leave no trace but one pass's random numbers.

    Args:
        evaluate: what to evaluate.
        z: the batch of latents that the call is about.
        conditions: further keyword arguments of G, checked against its signature.
        start: the state in which passes begin, as `Replay` takes it.

    Raises:
        TypeError: G does not take a condition.

    >>> corners = torch.tensor([[[0.0]], [[1.0]], [[2.0]]])
    >>> passes = Passes(Evaluator(torch.exp), corners[0], {})
    >>> [outputs[0].item() for outputs in passes.at(corners, chunk_size=2)]
    [1.0, 2.7182817459106445, 7.389056205749512]
    """

    def __init__(
        self, evaluate: Evaluator, z: Tensor, conditions: Mapping[str, Any], start: State | None = None
    ) -> None:
        check_conditions(evaluate.G, conditions)
        self._evaluate = evaluate
        self._conditions = Conditions.for_batch(conditions, z.shape[0])
        self._replay = Replay(evaluate.G, conditions, z.device, start)
        self._count: int | None = None
        if evaluate.capture is not None and start is None:  # a recorded pass has just told which layers run
            evaluate.capture.restart()

    @property
    def draws(self) -> bool:
        """Whether G draws random numbers, known after the first pass: then a pass must take exactly the batch."""
        return self._replay.draws

    def at(
        self,
        points: Float[Tensor, "corners rows *latent"],
        *,
        chunk_size: int | None = None,
        rows: Tensor | None = None,
        most_outputs: int | None = None,
        require_function: bool = False,
    ) -> Iterator[list[Tensor]]:
        """Yield G's outputs at each corner, in order: for every output a tensor of shape (rows, ...).

        One pass takes whole corners: `max(1, chunk_size // rows)` of them one after the other, never a part of a
        batch. None takes one corner a pass: the least memory, and the only right way for a G whose samples influence
        each other. For any other G the values do not depend on it.

        Args:
            points: latents, a batch of them (or of some rows) for each corner.
            chunk_size: most rows in a pass, at least one corner; a G that draws random numbers gets one corner.
            rows: the samples of the batch that `points` holds, where it does not hold all.
            most_outputs: how many outputs are needed, the first ones; None is all.
            require_function: repeat the first pass without a graph, unless that was done before for this G.

        Raises:
            ValueError: with `require_function`, the outputs differ by more than rounding.
        """
        conditions = self._conditions if rows is None else self._conditions.select(rows)
        count = points.shape[1]
        corners = 1 if chunk_size is None or self.draws else max(1, chunk_size // count)
        for start in range(0, len(points), corners):
            chunk = points[start : start + corners]
            of_chunk = conditions.repeat(len(chunk))
            outputs = self._run(chunk.flatten(0, 1), of_chunk, most_outputs)
            if self.draws and len(chunk) > 1:
                self._replay.forget()  # in one pass each corner got random numbers of its own
                yield from self.at(points, rows=rows, require_function=require_function)
                return
            if require_function and start == 0:
                self._require_function(chunk.flatten(0, 1), of_chunk, outputs)
            split = zip(*(output.unflatten(0, (-1, count)) for output in outputs), strict=True)
            del outputs  # what is yielded belongs to the one who asked
            yield from map(list, split)

    def _require_function(self, z: Tensor, conditions: Mapping[str, Any], outputs: list[Tensor]) -> None:
        G = self._evaluate.G
        if is_known_function(G):
            return
        captured = [Captured.of(output) for output in outputs]
        with torch.no_grad():
            again = self._run(z, conditions)
        for index, (first, second) in enumerate(zip(outputs, again, strict=True)):
            if not intact(captured[index : index + 1]):
                raise ValueError(
                    f"output {index} of `G` was written over by its next pass; return a new tensor instead of one that "
                    "G keeps."
                )
            difference = float((first.detach() - second.detach()).abs().max())
            allowed = ROUNDING_ALLOWANCE * torch.finfo(first.dtype).eps / 2 * float(second.detach().abs().max())
            if difference > allowed:
                raise ValueError(
                    "`G` is not a function of `z`: evaluated twice at the same latents, from the same buffers and the "
                    f"same random numbers of PyTorch, output {index} differs by up to {difference:.3g}. Most likely "
                    f"{self._cause(z, conditions)}: draw with PyTorch's generators, or pass what changes as an "
                    "argument."
                )
        remember_function(G)

    def _cause(self, z: Tensor, conditions: Mapping[str, Any]) -> str:
        """Say why G is not a function of z, as far as that can be seen from outside."""
        sources = foreign_generators()
        with torch.no_grad(), self._replay.one_pass():
            before = [read() for read in sources.values()]
            self._evaluate.G(z, **conditions)
            after = [read() for read in sources.values()]
        drawn = [name for name, old, new in zip(sources, before, after, strict=True) if old != new]
        if drawn:
            return f"it draws from {' and '.join(drawn)}"
        return (
            "it draws from a generator of its own, such as NumPy's, or an attribute of it changes with each call (a "
            "counter, a cache, an average that is no buffer)"
        )

    def _run(self, z: Tensor, conditions: Mapping[str, Any], most_outputs: int | None = None) -> list[Tensor]:
        try:
            with self._replay.one_pass():
                outputs = self._evaluate(z.clone(), conditions, most_outputs)  # G may write over its latents
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            parameters = (p for module in reachable(self._evaluate.G)[0] for p in module.parameters(recurse=False))
            others = {p.dtype for p in parameters if p.is_floating_point()} - {z.dtype}
            if others:
                raise TypeError(
                    f"`z` is {z.dtype} and `G` has parameters of {', '.join(map(str, others))}, with which it does not "
                    f"run ({str(error).splitlines()[0]}); give both the same precision, float32 or float64."
                ) from error
            raise
        if outputs is None:
            self._replay.forget()
            with self._replay.one_pass():
                outputs = self._evaluate(z.clone(), conditions, most_outputs)
        assert outputs is not None  # copies cannot be overwritten
        if most_outputs is not None:
            return outputs
        if self._count not in (None, len(outputs)):
            raise ValueError(
                f"`G` must return as many outputs in every pass, got {self._count} and then {len(outputs)}; hold the "
                "state of G fixed during the penalty."
            )
        self._count = len(outputs)
        return outputs


def _unwrapped(G: Any) -> tuple[Any, Any]:
    """Return G without what wraps it for training, and the process group that it is trained in, if there is one."""
    group = None
    while True:
        if isinstance(G, DistributedDataParallel):
            G, group = G.module, G.process_group
        elif isinstance(getattr(G, "_forward_module", None), nn.Module):
            G = G._forward_module  # Lightning Fabric
        elif hasattr(G, "_orig_mod") and _unwrapped(G._orig_mod)[0] is not G._orig_mod:
            G = G._orig_mod  # compiled around a wrapper
        else:
            return G, group


def as_outputs(result: Any) -> list[Any]:
    """Return what G returned as a list.

    Raises:
        TypeError: it is no tensor and no sequence with something in it.
    """
    if isinstance(result, Tensor):
        return [result]
    if not isinstance(result, list | tuple) or not result:
        raise TypeError(
            f"`G` must return a tensor or a sequence of tensors, got {_describe(result)}; wrap G in a function "
            "that picks the tensors to penalise."
        )
    return list(result)


def check_latents(z: Tensor) -> None:
    """Refuse latents without a batch, or without the precision that second differences need.

    Raises:
        TypeError: z is not a float32 or float64 tensor.
        ValueError: z has fewer than two dimensions or is empty.
    """
    check_tensor("z", z)
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
