"""Staying out of a compiled training step: the penalty decides by values, which no graph of operations can hold."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def outside_compiler(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function run as it is inside torch.compile; a compiled G that it calls still runs compiled.

    The compiler, whose import takes a second, is not imported for it.

    >>> outside_compiler(len)([1, 2])
    2
    """
    disabled: Callable[P, R] | None = None

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal disabled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if disabled is None:
            disabled = torch.compiler.disable(function)
        return disabled(*args, **kwargs)

    return call
