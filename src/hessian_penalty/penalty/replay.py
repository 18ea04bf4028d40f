"""The same random numbers and the same buffers for every pass, and no trace of them afterwards."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from hessian_penalty.penalty.reachable import reachable


@dataclass(frozen=True)
class State:
    """What a pass may change beside its result: states of random numbers, and (owner, name, buffer, copy of it).

    Attributes:
        draws: whether the pass that began here drew random numbers, where one did.
    """

    random: list[Tensor]
    buffers: list[tuple[nn.Module, str, Tensor, Tensor]]
    draws: bool = False


class Replay:
    """Lets the passes of one call begin in one state, so that a G with dropout or noise is a function of z.

    The first pass moves the random numbers on, as any forward pass does; the others find and leave them so. Buffers
    (running statistics, power iterations of a spectral norm) are put back after every pass. Covered are PyTorch's
    global generators, of the CPU and of the device, and the generators and modules that G and its conditions hold.

    Args:
        G: the generator.
        conditions: its further arguments.
        device: of the latents.
        start: the state in which every pass begins; None takes the present one. The state before an earlier pass makes
            that the first one: the random numbers stay where they are.

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
        modules, generators = reachable(G, conditions)
        self._modules = modules
        self._random = _switches(device, generators)
        self._now = self._state()
        self._start = start if start is not None else self._now
        self._first = start is None
        self.draws = start is not None and start.draws

    def _state(self) -> State:
        buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self._modules
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        ]
        return State(self._random_states(), buffers)

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Begin in the common state, and put everything back afterwards; the first pass moves the random numbers on."""
        outside = [] if self._first else self._random_states()
        if not self._first:
            self._set_random(self._start.random)
        if self._start is not self._now:
            _restore(self._start)
        try:
            yield
        finally:
            if self._first:
                self.draws = not _same(self._start.random, self._random_states())
                self._first = False
            else:
                self._set_random(outside)
            _restore(self._now)

    def before(self) -> State:
        """Return the state at the creation of this object, to which one pass has been made since."""
        return replace(self._start, draws=not _same(self._start.random, self._random_states()))

    def forget(self) -> None:
        """Undo the first pass: the next one is the first."""
        self._set_random(self._start.random)
        self._first = True

    def _random_states(self) -> list[Tensor]:
        return [read() for read, _ in self._random]

    def _set_random(self, states: list[Tensor]) -> None:
        for (_, write), state in zip(self._random, states, strict=True):
            write(state)


def _switches(
    device: torch.device, generators: list[torch.Generator]
) -> list[tuple[Callable[[], Tensor], Callable[[Tensor], Any]]]:
    """Return how to read and how to write the state of each source of random numbers."""
    known = [torch.default_generator, *generators]
    switches = []
    if device.type not in ("cpu", "meta"):
        module = torch.get_device_module(device)
        of_devices = getattr(module, "default_generators", None)  # one for each device, where there can be several
        if of_devices:
            known.append(of_devices[device.index or 0])
        else:
            switches.append((module.get_rng_state, module.set_rng_state))
    return [*((generator.get_state, generator.set_state) for generator in dict.fromkeys(known)), *switches]


def _same(states: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(states, others, strict=True))


def _restore(state: State) -> None:
    for module, name, buffer, copy in state.buffers:
        if getattr(module, name) is not buffer:
            setattr(module, name, buffer)
        expanded = any(n > 1 and s == 0 for n, s in zip(buffer.shape, buffer.stride(), strict=True))
        if not expanded and not buffer.is_inference():  # those cannot be written in place
            # Through `.data`, as the version of a buffer in the graph of the main loss must not change.
            buffer.data.copy_(copy)
