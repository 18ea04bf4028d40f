"""Activations of named layers of any module, captured by forward hooks."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class DetachedLayerError(ValueError):
    """A layer runs without a graph although the pass has one."""


class _LastLayerReached(BaseException):
    """Ends a forward pass early; not an Exception, so that no `except Exception` inside G can swallow it."""


def match_layers(G: nn.Module, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
    """Return the named modules of G that match a glob pattern, such as "synthesis.*.norm".

    `*` also matches dots. G itself (the empty name) never matches. The wrapper that torch.compile puts around a module
    has no part in its name.

    Raises:
        ValueError: no pattern was given, or a pattern matches nothing; the message lists the names there are.

    >>> G = nn.Sequential(nn.Linear(2, 3), nn.Tanh())
    >>> match_layers(G, "1")
    {'1': Tanh()}
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    if not patterns:
        raise ValueError("`layers` holds no pattern; pass None to penalise the outputs of G.")
    modules = {_uncompiled_name(name): module for name, module in G.named_modules(remove_duplicate=False)}
    modules.pop("")
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise ValueError(
                f"`layers` pattern {pattern!r} matches no module of G; its modules are: {', '.join(modules)}."
            )
    matched = {name: m for name, m in modules.items() if any(fnmatchcase(name, pattern) for pattern in patterns)}
    first_names = {module: name for name, module in reversed(matched.items())}  # one module may have several names
    return {name: module for name, module in matched.items() if first_names[module] == name}


class Captured(NamedTuple):
    """An activation, and its version when it was computed: a later in-place operation raises that of the tensor."""

    output: Tensor
    version: int

    @classmethod
    def of(cls, output: Tensor) -> "Captured":
        """Note the present version."""
        return cls(output, _version(output))


class LayerCapture:
    """Runs G and returns the outputs of some of its layers, in the order in which they are computed.

    A layer that runs several times in a pass (an activation module shared by blocks, say) gives an output each time;
    one that does not run (a block that is not grown in yet) gives none. Which do is learned in a pass that runs to the
    end; later ones stop right after the last output.

    Outputs are not copied, unless an in-place operation that follows (an activation, say) overwrites one: then the pass
    has to be repeated, for which None is returned, and copies are taken from there on.

    A layer that runs without a graph although the pass has one, inside a reentrant checkpoint for instance, is refused:
    its penalty would have no gradient.

    Compiled modules run uncompiled, as a hook that ends a pass cannot be compiled.

    Raises:
        TypeError: `G` is no module, or a layer's output is no tensor.
        ValueError: a pattern matches nothing, none of the layers runs, or one runs without a graph.

    >>> capture = LayerCapture(nn.Sequential(nn.Linear(2, 3), nn.Tanh()), "0")
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
        self._copies = False
        self._stop_after: int | None = None  # outputs in a pass; None while that is not known
        self._order: list[str] = []  # in which layers ran in the last pass that went to the end

    def __call__(self, z: Tensor, conditions: Mapping[str, Any], most: int | None = None) -> list[Tensor] | None:
        """Run one pass and return the activations, the first `most` of them, or None if it has to be repeated."""
        uncompiled = torch.compiler.set_stance("force_eager") if self.compiled else contextlib.nullcontext()
        with uncompiled, self.listen(stop_after=self._stop_after if most is None else most) as found:
            self.G(z, **conditions)
        if not found:
            raise ValueError(
                f"`layers` matches {', '.join(self.modules)}, but none of them runs when G is called; match layers "
                "that run."
            )
        if not intact(found):
            self._copies = True
            return None
        return [captured.output for captured in found]

    @property
    def compiled(self) -> bool:
        """Whether G or a module of it was compiled."""
        return any(_is_compiled(module) for module in self.G.modules())

    @property
    def order(self) -> list[str]:
        """The layers whose outputs a pass returns, in that order; one that runs several times is there as often."""
        return list(self._order)

    def restart(self) -> None:
        """Let the next pass run to its end: since the last one layers may have begun to run, or to run again."""
        self._stop_after = None

    @contextlib.contextmanager
    def listen(self, *, stop_after: int | None = None) -> Iterator[list[Captured]]:
        """Collect activations while G runs inside the context, which ends after so many of them."""
        found: list[Captured] = []
        order: list[str] = []
        with_graph = torch.is_grad_enabled()

        def capture_as(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if not isinstance(output, Tensor):
                    raise TypeError(
                        f"`layers` matches {name!r}, which returns {type(output).__name__}; match layers that return "
                        "one tensor."
                    )
                if with_graph and not torch.is_grad_enabled():
                    raise DetachedLayerError(
                        f"`layers` matches {name!r}, which runs without a graph inside G, so that its penalty would "
                        "have no gradient; pass use_reentrant=False to torch.utils.checkpoint, match other layers, or "
                        "evaluate under torch.no_grad()."
                    )
                if self._copies or output.is_inference():
                    output = output.clone()
                found.append(Captured.of(output))
                order.append(name)
                if len(found) == stop_after:
                    raise _LastLayerReached

            return hook

        handles = [module.register_forward_hook(capture_as(name)) for name, module in self.modules.items()]
        try:
            yield found
            self._order, self._stop_after = order, len(found)
        except _LastLayerReached:
            pass
        finally:
            for handle in handles:
                handle.remove()


def intact(found: list[Captured]) -> bool:
    """Tell whether no activation was overwritten since it was captured.

    >>> x = torch.ones(2)
    >>> found = [Captured.of(x)]
    >>> x.add_(1.0), intact(found)
    (tensor([2., 2.]), False)
    """
    return all(_version(output) == version for output, version in found)


def _version(output: Tensor) -> int:
    return 0 if output.is_inference() else output._version


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _uncompiled_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_orig_mod")
