"""Tasks that wait for one another, in several processes."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import torch

from hessian_penalty.errors import UserError

POLL_SECONDS = 1.0
_SAVING_SECONDS = 60.0  # within which an orphaned worker saves
_idle = threading.Event()  # whether this worker has nothing to save


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Args:
        name: unique.
        work: a function without arguments that another process can be sent: of a module, or a `partial` of one.
        after: names of tasks that must be done before.
    """

    name: str
    work: Callable[[], None]
    after: tuple[str, ...] = ()


def _set_up_worker(threads: int) -> None:
    os.setsid()  # a terminal's Ctrl-C goes to the parent alone, which passes on exactly one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _idle.set()
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    """Stop as by Ctrl-C once the parent is gone: two processes must never write to one run."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGINT)
    _idle.wait(_SAVING_SECONDS)
    os._exit(1)


def _interruptible(work: Callable[[], None]) -> None:
    _idle.clear()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        work()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _idle.set()


def run_tasks(
    tasks: Sequence[Task], *, workers: int = 1, threads: int = 1, watch: Callable[[int], None] | None = None
) -> dict[str, UserError]:
    """Do all tasks, those that come first in the list first.

    A task that fails by a `UserError` keeps those that wait for it from beginning, and no others. Ctrl-C reaches each
    running task once, and what they then save is waited for.

    Args:
        tasks: each after all that it waits for.
        workers: processes.
        threads: of PyTorch in each of them.
        watch: called about every second with the number of tasks that are done.

    Returns:
        Name → why, of the tasks that failed; of those that wait for them nothing.

    Raises:
        UserError: a process died.
    """
    waiting = {task.name: task for task in tasks}
    running: dict[Future[None], str] = {}
    failed: dict[str, UserError] = {}
    done: set[str] = set()
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside threads that torch may have started
    strangers = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up_worker, initargs=(threads,))
    try:
        while waiting or running:
            ready = [task for task in waiting.values() if done.issuperset(task.after)]
            if not ready and not running:  # the rest waits for what failed
                break
            for task in ready[: workers - len(running)]:
                running[pool.submit(_interruptible, waiting.pop(task.name).work)] = task.name
            for future in wait(running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                try:
                    future.result()
                    done.add(name)
                except UserError as error:
                    failed[name] = error
            if watch:
                watch(len(done))
    except BrokenProcessPool:
        raise UserError(
            "A worker process died, perhaps out of memory. What is done is kept; repeat with fewer --workers to go on."
        ) from None
    except BaseException:
        for worker in set(multiprocessing.active_children()) - strangers:
            if worker.pid is not None:
                os.kill(worker.pid, signal.SIGINT)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return failed
