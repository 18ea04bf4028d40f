"""Telling how far a long measurement has come."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Progress = Callable[[int, int], None]  # (steps done, steps in all)


def told(items: Sequence[Item], progress: Progress | None) -> Iterator[Item]:
    """Yield the items, and tell after each how many are done.

    >>> list(told("ab", lambda done, total: print(f"{done} of {total}")))
    1 of 2
    2 of 2
    ['a', 'b']
    """
    for index, item in enumerate(items):
        yield item
        if progress:
            progress(index + 1, len(items))
