"""A folder that one process at a time may work in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hessian_penalty.errors import UserError


@contextmanager
def exclusive(folder: str | Path) -> Iterator[None]:
    """Keep other processes from the folder, by a file `.lock` in it; it is free again however this process ends.

    Raises:
        UserError: another process is at work there.
    """
    path = Path(folder) / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"Another process is at work in {folder}, and two would spoil each other's files: wait for it, or stop it."
        ) from None
    try:
        yield
    finally:
        lock.release()
