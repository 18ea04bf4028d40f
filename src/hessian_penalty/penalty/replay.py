"""The same random numbers and the same buffers for every pass, and no trace of them afterwards."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hessian_penalty.penalty.reachable import reachable


@dataclass(frozen=True)
class State:
    """What a pass may change beside its result.

    Attributes:
        random: the state of each source of random numbers.
        buffers: owner, name and value of each buffer.
        draws: whether the pass that began here drew random numbers, where one did.
    """

    random: dict[Any, Tensor]
    buffers: list[tuple[nn.Module, str, Tensor | None]]
    draws: bool = False


class Replay:
    """Lets the passes of one call begin in one state, so that a G with dropout or noise is a function of z.

    The first pass moves the random numbers on, as any forward pass does; the others find and leave them so. Each pass
    has copies of the buffers (running statistics, power iterations of a spectral norm), which it may change or keep in
    its graph; G's own are not touched. Covered are PyTorch's global generators, of the CPU and of the device, and the
    generators and modules that G and its conditions hold.

    Args:
        G: the generator.
        conditions: its further arguments.
        device: of the latents.
        start: the state in which every pass begins; None takes that before the first one. The state before an earlier
            pass makes that the first one: the random numbers stay where they are.

    Raises:
        ValueError: a module is lazy, and its parameters or buffers have no shape yet.

    Attributes:
        draws: whether passes draw random numbers; known after the first one.

    >>> replay = Replay(torch.dropout, {}, torch.device("cpu"))
    >>> results = []
    >>> for _ in range(2):
    ...     with replay.one_pass():
    ...         results.append(torch.dropout(torch.ones(100), 0.5, True))
    >>> bool((results[0] == results[1]).all()), replay.draws
    (True, True)
    """

    def __init__(
        self, G: Callable[..., Any], conditions: Mapping[str, Any], device: torch.device, start: State | None = None
    ) -> None:
        self._modules, generators = reachable(G, conditions)
        for module in self._modules:
            held = (*module._parameters.values(), *module._buffers.values())
            if any(is_lazy(tensor) for tensor in held if tensor is not None):
                raise ValueError(
                    f"`G` holds a {type(module).__name__} whose parameters have no shape yet; call G(z) once before "
                    "the penalty."
                )
        self._sources = _sources(device, generators)
        self._start = start
        self._first = self._moves = start is None  # whether the next pass moves the random numbers on; the first one
        self._ran = False
        self.draws = start is not None and start.draws

    def state(self) -> State:
        """Return a copy of the present state."""
        return State(self._random(), _copied(self._held()))

    def seeded_state(self, seed: int) -> State:
        """Return the present buffers, with the random numbers of a seed."""
        random = {
            source: torch.Generator(source.device).manual_seed(seed).get_state()
            if isinstance(source, torch.Generator)
            else state
            for source, state in self._random().items()
        }
        return State(random, _copied(self._held()))

    def after_pass(self, start: State) -> State:
        """Return the state again, with whether a pass that was made since has drawn."""
        return replace(start, draws=not _same(start.random, self._random()))

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Begin in the common state, and put everything back afterwards; the first pass moves the random numbers on."""
        if self._start is None:
            self._start = self.state()
        held, outside = self._held(), self._random()
        if not self._first:
            self._set_random(self._start.random)
        _hold(_copied(self._start.buffers))
        try:
            yield
        finally:
            if not self._ran:
                self.draws = self.draws or not _same(self._start.random, self._random())
                self._ran = True
            if self._first:
                self._first = False
            else:
                self._set_random(outside)
            _hold(held)

    def forget(self) -> None:
        """Undo the first pass: the next one is the first."""
        assert self._start is not None  # there was one
        if self._moves:
            self._set_random(self._start.random)
            self._first = True

    def _held(self) -> list[tuple[nn.Module, str, Tensor | None]]:
        return [(module, name, buffer) for module in self._modules for name, buffer in module._buffers.items()]

    def _random(self) -> dict[Any, Tensor]:
        return {source: read() for source, (read, _) in self._sources.items()}

    def _set_random(self, states: dict[Any, Tensor]) -> None:
        for source, state in states.items():
            if source in self._sources:
                self._sources[source][1](state)


def noise_of(G: Callable[..., Any], conditions: Mapping[str, Any], z: Tensor) -> State:
    """Return the state in which passes at z begin with the random numbers of a seed made from z.

    So a G that draws noise gives the same images at the same latents, whatever was drawn before.
    """
    seed = zlib.crc32(z.detach().cpu().contiguous().numpy().tobytes())
    return Replay(G, conditions, z.device).seeded_state(seed)


def _sources(
    device: torch.device, generators: list[torch.Generator]
) -> dict[Any, tuple[Callable[[], Tensor], Callable[[Tensor], Any]]]:
    """Return how to read and how to write the state of each source of random numbers."""
    known = [torch.default_generator, *generators]
    others = {}
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        of_devices = getattr(module, "default_generators", None)  # one for each device, where there can be several
        if of_devices:
            known.append(of_devices[device.index or 0])
        else:
            others[device] = module.get_rng_state, module.set_rng_state
    return {generator: (generator.get_state, generator.set_state) for generator in known} | others


def _same(states: dict[Any, Tensor], others: dict[Any, Tensor]) -> bool:
    return all(torch.equal(state, others[source]) for source, state in states.items() if source in others)


def _copied(
    buffers: list[tuple[nn.Module, str, Tensor | None]],
) -> list[tuple[nn.Module, str, Tensor | None]]:
    """Return copies of the buffers; one that has two names stays one."""
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in buffers if buffer is not None}
    return [(module, name, None if buffer is None else copies[id(buffer)]) for module, name, buffer in buffers]


def _hold(buffers: list[tuple[nn.Module, str, Tensor | None]]) -> None:
    for module, name, buffer in buffers:
        module._buffers[name] = buffer
