"""Render a whole data set on all cores: resumable, reproducible, never half-written."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessian_penalty.data.clevr import FAMILIES, Scene
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.data.mitsuba_scene import SAMPLES_PER_PIXEL, mitsuba_version, render_scene
from hessian_penalty.data.partial_folder import Progress, check_target, claim_partial, create_array, publish
from hessian_penalty.errors import UserError

Array = np.memmap[Any, np.dtype[Any]]
Chunk = tuple[int, list[Scene]]  # (index of the first picture, scenes)
Pixels = tuple[int, NDArray[np.uint8]]  # (index of the first picture, (N, size, size, 3))


def chunk_images(size: int) -> int:
    """How many pictures one worker renders between two reports: about ten seconds' work.

    An interrupted render loses at most this for each core.
    """
    return max(1, min(50, 50 * 64**2 // size**2))


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _render_chunk(task: Chunk, size: int, seed: int) -> Pixels:
    start, scenes = task
    images = [render_scene(scene, size, seed=(seed * 1_000_003 + start + i) % 2**32) for i, scene in enumerate(scenes)]
    return start, np.stack(images)


@contextmanager
def _one_thread() -> Iterator[None]:
    import drjit

    before = drjit.thread_count()
    drjit.set_thread_count(1)
    try:
        yield
    finally:
        drjit.set_thread_count(before)


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _set_up_worker() -> None:
    import drjit

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()  # else a killed parent leaves us behind
    drjit.set_thread_count(1)  # one process a core; threads inside would only contend


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _map(work: Callable[[Chunk], Pixels], tasks: list[Chunk], workers: int) -> Generator[Pixels, None, None]:
    workers = min(workers, len(tasks))
    if workers <= 1:
        with _one_thread():
            yield from map(work, tasks)
        return
    context = multiprocessing.get_context("spawn")  # fork is unsafe beside threads that torch may have started
    strangers = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_set_up_worker)
    try:
        with _interrupts_ignored():  # workers inherit this: Ctrl-C reaches them too, but this process answers it
            results = pool.map(work, tasks)
        yield from results
    except BaseException as error:
        for worker in set(multiprocessing.active_children()) - strangers:
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "A render worker died: out of memory, or started from a script without "
                '`if __name__ == "__main__":`. Finished pictures are kept; repeat with fewer --workers to go on.'
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _open_arrays(folder: Path, count: int, size: int) -> tuple[Array, Array]:
    """The pictures and the flags of the finished chunks: an interrupted render's, or new where those are damaged."""
    kinds = {
        "images.npy": (np.dtype(np.uint8), (count, size, size, 3)),
        "done.npy": (np.dtype(np.bool_), (-(-count // chunk_images(size)),)),
    }
    try:
        # Mode "r" refuses a file cut short; "r+" would pad it with black pictures.
        found = [np.lib.format.open_memmap(folder / name, mode="r") for name in kinds]
    except (OSError, ValueError):
        found = []
    if [(array.dtype, array.shape) for array in found] == list(kinds.values()):
        images, done = (np.lib.format.open_memmap(folder / name, mode="r+") for name in kinds)
    else:
        (folder / "done.npy").unlink(missing_ok=True)  # first, so that no old flag ever vouches for a new picture
        images, done = (create_array(folder / name, *kind) for name, kind in kinds.items())
    return images, done


def render_dataset(
    name: str,
    count: int,
    size: int,
    out: str | Path,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ImageDataset:
    """Render `count` pictures of the family `name` into the folder `out`.

    The same name, count, size and seed give the same bytes, however many workers there are and however often the
    render was interrupted: work goes on from `out` + ".partial", which becomes `out` once complete.

    Args:
        name: a key of `hessian_penalty.data.clevr.FAMILIES`.
        count: pictures, at least 1.
        size: pixels, a power of two from 4 to 1024.
        seed: of the factors and of the noise, at least 0.
        workers: processes; default one per core, 1 renders in this one.
        progress: told (pictures done, pictures in all), first with what an interrupted render left.

    Raises:
        UserError: unknown name, bad count, size, seed or workers, `out` exists, no room on the disk, or Mitsuba is
            missing.
    """
    out = Path(out)
    if name == "clevr-u":
        raise UserError("clevr-u is clevr-simple's data learned with 3 latents: render clevr-simple.")
    if name not in FAMILIES:
        raise UserError(f"Unknown data set {name!r}; choose one of {', '.join(FAMILIES)}.")
    if count < 1:
        raise UserError(f"`count` must be at least 1, got {count}.")
    if seed < 0:
        raise UserError(f"`seed` must not be negative, got {seed}.")
    if workers is not None and workers < 1:
        raise UserError(f"`workers` must be at least 1, got {workers}.")
    check_target(out, size)
    family = FAMILIES[name]
    recipe = {
        "name": name, "count": count, "size": size, "seed": seed,
        "samples_per_pixel": SAMPLES_PER_PIXEL, "mitsuba": mitsuba_version(),
    }  # fmt: skip
    folder = claim_partial(out, recipe)
    images, done = _open_arrays(folder, count, size)
    factors = family.draw(count, np.random.default_rng(seed))
    chunk = chunk_images(size)
    tasks = [
        (start, [family.scene(factors, i) for i in range(start, min(start + chunk, count))])
        for start in range(0, count, chunk)
        if not done[start // chunk]
    ]
    finished = count - sum(len(scenes) for _, scenes in tasks)
    if progress:
        progress(finished, count)
    work = partial(_render_chunk, size=size, seed=seed)
    with closing(_map(work, tasks, workers or available_cores())) as results:
        for start, pixels in results:
            images[start : start + len(pixels)] = pixels
            images.flush()  # pixels reach the disk before the flag that vouches for them
            done[start // chunk] = True
            done.flush()
            finished += len(pixels)
            if progress:
                progress(finished, count)
    del images, done
    return publish(folder, out, factors, {**recipe, "description": family.description})
