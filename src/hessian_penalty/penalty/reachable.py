"""What a callable holds: the modules that its passes run, and the generators that they draw from."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

DEPTH = 6  # of functions that call functions that hold a module
MOST_ELEMENTS = 1000  # of a container that is looked into; a longer one is data
MOST_VALUES = 5_000  # looked at in all, the attributes of modules not counted
LEAVES = (torch.Tensor, type, ModuleType, BuiltinFunctionType, str, bytes, int, float, complex, type(None))
OWN = frozenset(vars(nn.Module()))  # what every module has: its parameters, buffers, submodules and hooks


def reachable(*roots: Any) -> tuple[list[nn.Module], list[torch.Generator]]:
    """Return the modules, submodules included, and the generators of random numbers that the roots hold.

    Modules and other objects are looked into, and so are bound methods, partials, closures, the globals that a function
    names, and containers that are not too long; PyTorch's own functions are not.

    >>> G = nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    >>> modules, _ = reachable(lambda z: G(z).tanh())
    >>> [type(module).__name__ for module in modules]
    ['Sequential', 'Linear', 'Dropout']
    """
    modules: dict[nn.Module, None] = {}
    generators: dict[torch.Generator, None] = {}
    seen: set[int] = set()
    left = MOST_VALUES
    layer = list(roots)
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in layer:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if issubclass(type(value), torch.Generator):
                generators[value] = None
            elif issubclass(type(value), nn.Module):
                for module in value.modules():
                    modules[module] = None
                    held = (attribute for name, attribute in vars(module).items() if name not in OWN)
                    below.extend(attribute for attribute in held if _is_node(attribute))
            else:
                found: list[Any] = []
                with suppress(Exception):  # a proxy may refuse to be looked at
                    found.extend(islice(_held_by(value), left))
                left -= len(found)
                below.extend(held for held in found if _is_node(held))
        layer = below
    return list(modules), list(generators)


def _is_node(value: Any) -> bool:
    """Tell whether to look further; by its true type, as a proxy may pretend to another or refuse to tell."""
    return not issubclass(type(value), LEAVES)


def _held_by(value: Any) -> Iterator[Any]:
    """Yield what a value holds that may be or hold a module or a generator."""
    if isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] == "torch" and not value.__closure__:
            return
        yield from (value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__)
        yield from value.__defaults__ or ()
        yield from (value.__kwdefaults__ or {}).values()
        for cell in value.__closure__ or ():
            with suppress(ValueError):  # a variable that has no value yet
                yield cell.cell_contents
        yield getattr(value, "__wrapped__", None)
    elif isinstance(value, dict | list | tuple | set | frozenset):
        if len(value) <= MOST_ELEMENTS:
            yield from value.values() if isinstance(value, dict) else value
    else:
        yield vars(type(value)).get("__call__")
        if hasattr(value, "__dict__"):
            yield from vars(value).values()


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code uses, that of functions inside it included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
