"""Progress bars with an estimated time of arrival, on a terminal and in a log file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LOG_SECONDS = 15.0  # between two lines where the output is not a terminal


@runtime_checkable
class Update(Protocol):
    """Report how far a piece of work has come; `note` is shown beside the bar."""

    def __call__(self, done: float | int, total: float | int, note: str = "") -> None: ...


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


@contextmanager
def progress_bar(title: str) -> Iterator[Update]:
    """A live bar on a terminal; elsewhere (CI, a log file) a line every few seconds, each with an ETA."""
    console = Console()
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=None, note="")

            def show(done: float | int, total: float | int, note: str = "") -> None:
                bar.update(task, completed=done, total=total)
                if note:
                    bar.update(task, note=note)

            yield show
    else:
        yield _LogLines(title)


class _LogLines:
    """An `Update` that prints a line now and then."""

    def __init__(self, title: str) -> None:
        self._title, self._note = title, ""
        self._start = time.monotonic()
        self._next_line = 0.0  # seconds after the start
        self._finished = False
        self._first: float | None = None  # what was done already, as in a resumed run

    def __call__(self, done: float | int, total: float | int, note: str = "") -> None:
        elapsed = time.monotonic() - self._start
        self._first = float(done) if self._first is None else self._first
        self._note = note or self._note
        if self._finished or (elapsed < self._next_line and done < total):
            return
        self._finished = done >= total
        gained = done - self._first
        eta = _seconds(elapsed * (total - done) / gained) if gained > 0 else "?"
        print(f"{self._title}: {done:g}/{total:g}, {_seconds(elapsed)} elapsed, ETA {eta}  {self._note}", flush=True)
        self._next_line = elapsed + LOG_SECONDS
