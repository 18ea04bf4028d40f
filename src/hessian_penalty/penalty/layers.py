"""Activations of named layers of any module, captured by forward hooks."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class _LastLayerReached(BaseException):
    """Ends a forward pass early; not an Exception, so that no `except Exception` inside G can swallow it."""


def match_layers(G: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
    """Return the named modules of G that match a glob pattern, such as "synthesis.*.norm".

    `*` also matches dots. G itself (the empty name) never matches.

    Raises:
        ValueError: no pattern was given, or a pattern matches nothing; the message lists the names there are.

    >>> G = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> match_layers(G, "1")
    {'1': Tanh()}
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("`layers` holds no pattern; pass None to penalise the outputs of G.")
    modules = {name: module for name, module in G.named_modules(remove_duplicate=False) if name}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise ValueError(
                f"`layers` pattern {pattern!r} matches no module of G; its modules are: {', '.join(modules)}."
            )
    matched = {name: m for name, m in modules.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    first_names = {module: name for name, module in reversed(matched.items())}  # one module may have several names
    return {name: module for name, module in matched.items() if first_names[module] == name}


class LayerCapture:
    """Runs G and returns the outputs of some of its layers, in the order in which they are computed.

    A layer that runs several times in a pass (an activation module shared by blocks, say) gives an output each time;
    one that does not run (a block that is not grown in yet) gives none. Which do is learned in the first pass, which
    runs to the end; each later one stops right after the last output. So an object serves one G in one state.

    Outputs are copied when they are captured, because a following in-place activation would overwrite them.

    Raises:
        TypeError: `G` is no module, or a layer's output is no tensor.
        ValueError: a pattern matches nothing, or none of the layers runs.

    >>> capture = LayerCapture(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), "0")
    >>> import torch
    >>> [tuple(output.shape) for output in capture(torch.zeros(5, 2), {})]
    [(5, 3)]
    """

    def __init__(self, G: Any, patterns: str | Sequence[str]) -> None:
        if not isinstance(G, nn.Module):
            raise TypeError(
                f"`layers` names modules of G, so `G` must be a torch.nn.Module, got {type(G).__name__}; without "
                "`layers`, a function that returns a list of activations will do."
            )
        self.G = G
        self.modules = match_layers(G, patterns)
        self._expected: int | None = None

    def __call__(self, z: Tensor, conditions: Mapping[str, Any]) -> list[Tensor]:
        """Run one pass and return the activations."""
        captured: list[Tensor] = []
        handles: list[RemovableHandle] = []

        def capture_as(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if not isinstance(output, Tensor):
                    raise TypeError(
                        f"`layers` matches {name!r}, which returns {type(output).__name__}; match layers that return "
                        "one tensor."
                    )
                captured.append(output.clone())
                if len(captured) == self._expected:
                    raise _LastLayerReached

            return hook

        try:
            for name, module in self.modules.items():
                handles.append(module.register_forward_hook(capture_as(name)))
            self.G(z, **conditions)
        except _LastLayerReached:
            pass
        finally:
            for handle in handles:
                handle.remove()
        if not captured:
            raise ValueError(
                f"`layers` matches {', '.join(self.modules)}, but none of them runs when G is called; match layers "
                "that run."
            )
        self._expected = len(captured)
        return captured
