"""A data set in the making: it grows in a folder named `out` + ".partial" and takes its name once complete."""

import errno
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path, read_json, require_new, write_json

Progress = Callable[[int, int], None]  # (images done, images in all)


def check_target(out: Path, size: int) -> None:
    """Refuse a picture size that no network here takes, and a folder that is taken.

    Raises:
        UserError: `size` is not a power of two from 4 to 1024, or `out` exists.
    """
    if not 4 <= size <= 1024 or size & (size - 1):
        raise UserError(f"`size` must be a power of two from 4 to 1024, got {size}.")
    require_new(out)


def partial_path(out: Path) -> Path:
    """Where `out` grows.

    >>> partial_path(Path("datasets/clevr-simple")).name
    'clevr-simple.partial'
    """
    return out.with_name(out.name + ".partial")


def claim_partial(out: Path, recipe: dict[str, Any]) -> Path:
    """The folder where `out` grows, new or left by an interruption of the same `recipe`.

    Raises:
        UserError: a folder of that name is there which some other recipe, or somebody else, made.
    """
    folder = partial_path(out)
    if not folder.exists():
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            write_json(temporary / "recipe.json", recipe)
    elif not (folder / "recipe.json").is_file():
        raise UserError(f"{folder} is in the way: no data set is being made there. Choose another --out, or move it.")
    found = read_json(folder / "recipe.json")
    if found != recipe:
        was = found if isinstance(found, dict) else {}
        other = [f"{key} {was.get(key)!r}, now {value!r}" for key, value in recipe.items() if was.get(key) != value]
        raise UserError(
            f"{folder} holds an interrupted data set with other settings ({'; '.join(other) or 'more of them'}). "
            "Repeat those settings, choose another --out, or delete it."
        )
    return folder


@contextmanager
def fresh_partial(out: Path, recipe: dict[str, Any]) -> Iterator[Path]:
    """An empty folder where `out` grows, which goes away again where the block raises.

    Raises:
        UserError: that place is taken by something else.
    """
    folder = claim_partial(out, recipe)
    try:
        for left_over in folder.glob("*.npy"):  # of an import that was killed
            left_over.unlink()
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def create_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[Any]]:
    """A new memory-mapped `.npy` file with its space on the disk reserved.

    Raises:
        UserError: the disk has too little room.
    """
    size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if shutil.disk_usage(path.parent).free < size_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # else a full disk would later kill the process with a bus error
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if [child.name for child in path.parent.iterdir()] == ["recipe.json"]:  # nothing was made here yet
            shutil.rmtree(path.parent)
        raise UserError(
            f"{path} needs {size_bytes / 1e9:.3g} GB on the disk, which cannot be reserved ({error.strerror}). "
            "Make room, choose another --out, or fewer or smaller pictures."
        ) from None
    return array


def publish(folder: Path, out: Path, factors: list[Factor], provenance: dict[str, Any]) -> ImageDataset:
    """Complete the data set in `folder` and give it its name, `out`."""
    ImageDataset.finish(folder, factors, **provenance)
    os.replace(folder, out)
    for name in ("done.npy", "recipe.json"):  # last: without them an interruption here would look like a stranger's
        (out / name).unlink(missing_ok=True)
    return ImageDataset(out)
