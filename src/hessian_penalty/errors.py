"""The exception that tells a user what to change; the command line prints its text and nothing else."""

import math


class UserError(ValueError):
    """A mistake in what the user gave: a file, a field or an argument.

    The message names it, says what was expected and what came, and how to mend it. The command line shows the
    message without a traceback and exits with status 2.
    """


def check_number(name: str, value: float | int, low: float | int, high: float | int = math.inf) -> None:
    """Refuse a setting that is not a finite number in [low, high].

    >>> check_number("epsilon", 0.1, 0.0)

    Raises:
        UserError: it is not.
    """
    if math.isfinite(value) and low <= value <= high:
        return
    wanted = f"at least {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"
    raise UserError(f"{name} must be a finite number {wanted}, got {value:g}.")


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether this is what PyTorch raises where the CPU's memory does not suffice.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    True
    """
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


LARGEST_SEED = 10**15  # random generators take 64 bits, and some seeds are multiplied by a thousand
