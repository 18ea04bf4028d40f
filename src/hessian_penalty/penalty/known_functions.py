"""Which generators were found to be functions of their latents, and what could make one not to be."""

import random
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from hessian_penalty.penalty.reachable import reachable

# Generators that were found to be functions of z: the code that was called, by what it runs.
_functions: WeakKeyDictionary[Any, WeakSet[Any]] = WeakKeyDictionary()


def _anchor_and_code(G: Callable[..., Any]) -> tuple[Any, Any]:
    """Return what G runs, and its code: a lambda is a new object each time, its code and its module are not."""
    while isinstance(G, partial):
        G = G.func
    if isinstance(G, nn.Module):
        return G, type(G)
    modules, _ = reachable(G)
    if isinstance(G, MethodType):
        return (modules[0] if modules else G.__self__), G.__func__.__code__
    if not isinstance(G, FunctionType):
        return G, type(G)
    if modules:
        return modules[0], G.__code__
    return (G if G.__closure__ else G.__code__), G.__code__  # the same code may close over something else


def is_known_function(G: Callable[..., Any]) -> bool:
    """Tell whether G was found to be a function before."""
    try:
        anchor, code = _anchor_and_code(G)
        return code in _functions.get(anchor, ())
    except TypeError:  # also an object that allows no weak references: it is asked each time
        return False


def remember_function(G: Callable[..., Any]) -> None:
    """Note that G is a function of its latents, as long as what it runs exists."""
    with suppress(TypeError):
        anchor, code = _anchor_and_code(G)
        _functions.setdefault(anchor, WeakSet()).add(code)


def foreign_generators() -> dict[str, Callable[[], Any]]:
    """Return how to read the states of the global generators that are not PyTorch's."""
    sources: dict[str, Callable[[], Any]] = {"Python's `random`": random.getstate}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        sources["NumPy's global generator"] = lambda: repr(numpy.random.get_state(legacy=False))
    return sources
