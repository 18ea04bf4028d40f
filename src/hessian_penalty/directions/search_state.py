"""What a long search keeps on disk, so that an interruption costs a minute at most."""

import json
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path

SECONDS_BETWEEN_SAVES = 30.0


class SearchState:
    """A file that holds the tensors of an unfinished search.

    Args:
        path: of the file; it need not exist.
        identity: what has to be the same for a search to go on from it: method, settings, generator, subspace.

    Raises:
        UserError: the file is of another search, or cannot be read.
    """

    def __init__(self, path: str | Path, identity: dict[str, Any]) -> None:
        self.path = Path(path)
        self._identity = json.dumps(identity, sort_keys=True)
        self._last_save = time.monotonic()
        self._found: dict[str, Tensor] | None = None
        self._unsaved: dict[str, Tensor] | None = None
        if self.path.is_dir():
            raise UserError(f"{self.path} is a folder; name the file in which the search keeps what it has.")
        if self.path.exists():
            self._found = self._read()

    def _read(self) -> dict[str, Tensor]:
        try:
            with safe_open(self.path, framework="pt") as file:
                identity = (file.metadata() or {}).get("identity", "{}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found = json.loads(identity)
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise UserError(f"{self.path} cannot be read ({error}); delete it to begin anew.") from None
        wanted = json.loads(self._identity)
        different = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if different:
            raise UserError(
                f"{self.path} holds another search: {', '.join(different)} differ(s). Repeat that search to finish it, "
                "or delete the file to begin anew."
            )
        return tensors

    def load(self) -> dict[str, Tensor] | None:
        """Return what was kept; None for a new search."""
        return self._found

    def save(self, tensors: dict[str, Tensor], *, now: bool = False) -> None:
        """Keep tensors; on disk, unless the last time was a moment ago."""
        self._unsaved = tensors
        if now or time.monotonic() - self._last_save >= SECONDS_BETWEEN_SAVES:
            self.flush()

    def flush(self) -> None:
        """Write what is not yet on disk."""
        if self._unsaved is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            kept = {name: tensor.detach().cpu().contiguous() for name, tensor in self._unsaved.items()}
            save_file(kept, temporary, {"identity": self._identity})
        self._last_save, self._unsaved = time.monotonic(), None

    def finish(self) -> None:
        """Delete the file: the search is done."""
        self.path.unlink(missing_ok=True)
