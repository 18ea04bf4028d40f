"""What takes long to make and does not change is kept on disk, by what it was made from."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/hessian-penalty`, or `~/.cache/hessian-penalty`; everything in it can be deleted."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hessian-penalty"


def cached_tensors(kind: str, key: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors from the cache, or made and kept there.

    A file that is damaged or was made from something else is made anew; where the folder cannot be written, nothing is
    kept.

    Args:
        kind: what they are, in a word: the file's name begins with it.
        key: everything that they depend on, as JSON takes it: content hashes, settings, versions.
        make: makes them; contiguous tensors on the CPU.
    """
    written = json.dumps(key, sort_keys=True)
    path = cache_folder() / f"{kind}-{hashlib.sha256(written.encode()).hexdigest()[:32]}.safetensors"
    with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
        if (file.metadata() or {}).get("key") == written:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    made = make()
    with contextlib.suppress(OSError, UserError), atomic_path(path) as temporary:
        save_file(made, temporary, metadata={"key": written})
    return made
