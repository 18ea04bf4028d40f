"""What a callable holds: the modules that its passes run, and the generators that they draw from."""

from collections.abc import Iterator
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

DEPTH = 5  # of functions that call functions that hold a module
MOST_ELEMENTS = 1000  # of a container that is looked into; a longer one is data


def reachable(*roots: Any) -> tuple[list[nn.Module], list[torch.Generator]]:
    """Return the modules, submodules included, and the generators of random numbers that the roots hold.

    Modules are looked into, and so are bound methods, partials, closures, the globals that a function names, containers
    and plain objects; PyTorch's own functions are not.

    >>> G = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    >>> modules, _ = reachable(lambda z: G(z).tanh())
    >>> [type(module).__name__ for module in modules]
    ['Sequential', 'Linear', 'Dropout']
    """
    modules: dict[nn.Module, None] = {}
    generators: dict[torch.Generator, None] = {}
    seen: set[int] = set()
    layer = list(roots)
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in layer:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, torch.Generator):
                generators[value] = None
            elif isinstance(value, nn.Module):
                for module in value.modules():
                    modules[module] = None
                    generators |= {held: None for held in vars(module).values() if isinstance(held, torch.Generator)}
            else:
                below.extend(_held_by(value))
        layer = below
    return list(modules), list(generators)


def _held_by(value: Any) -> Iterator[Any]:
    """Yield what a value holds that may be or hold a module or a generator."""
    if isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] == "torch" and not value.__closure__:
            return
        yield from (value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        for cell in value.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # a variable that has no value yet
                continue
        yield getattr(value, "__wrapped__", None)
    elif isinstance(value, dict | list | tuple | set | frozenset):
        if len(value) <= MOST_ELEMENTS:
            yield from value.values() if isinstance(value, dict) else value
    elif not isinstance(value, torch.Tensor | type | ModuleType | BuiltinFunctionType) and hasattr(value, "__dict__"):
        yield from vars(value).values()
