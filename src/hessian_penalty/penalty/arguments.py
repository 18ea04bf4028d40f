"""Arguments of the wrong type, refused by name before anything is computed."""

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_whole(name: str, value: Any) -> None:
    """Refuse what is no whole number.

    >>> check_whole("k", 2.0)
    Traceback (most recent call last):
    TypeError: `k` must be a whole number, got float 2.0; write 2.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        whole = isinstance(value, float) and value.is_integer()
        remedy = f"write {int(value)}" if whole else "write an int"
        raise TypeError(f"`{name}` must be a whole number, got {type(value).__name__} {value!r}; {remedy}.")


def check_number(name: str, value: Any) -> None:
    """Refuse what is no real number.

    >>> check_number("epsilon", "0.1")
    Traceback (most recent call last):
    TypeError: `epsilon` must be a number, got str '0.1'; write a float.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__} {value!r}; write a float.")


def check_tensor(name: str, value: Any) -> None:
    """Refuse what is no tensor.

    >>> check_tensor("z", [[1.0]])
    Traceback (most recent call last):
    TypeError: `z` must be a torch.Tensor, got list; pass torch.as_tensor(z).
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(value).__name__}; pass torch.as_tensor({name}).")


def check_generator(name: str, value: Any) -> None:
    """Refuse what is neither a generator of random numbers nor None.

    >>> check_generator("rng", 0)
    Traceback (most recent call last):
    TypeError: `rng` must be a torch.Generator or None, got int; pass torch.Generator(z.device).manual_seed(0).
    """
    if value is not None and not isinstance(value, torch.Generator):
        seed = value if isinstance(value, int) else 0
        raise TypeError(
            f"`{name}` must be a torch.Generator or None, got {type(value).__name__}; pass "
            f"torch.Generator(z.device).manual_seed({seed})."
        )
