"""The run folder: where a training run keeps its configuration, checkpoints, records and pictures.

Everything is written under a temporary name, flushed to disk and renamed, so that a process killed at any moment
leaves either the old state or the new one.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from hessian_penalty.errors import UserError

T = TypeVar("T")


def _flush(path: Path) -> None:
    if path.is_dir():
        for child in path.iterdir():
            _flush(child)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def require_new(path: str | Path) -> Path:
    """Refuse a path at which there is something.

    Raises:
        UserError: it exists, be it as a link that leads nowhere.
    """
    if Path(path).exists() or Path(path).is_symlink():
        raise UserError(f"{path} exists already. Choose another --out, or move it away.")
    return Path(path)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush what was written there and rename it to `path`.

    Works for files and for folders (the caller makes the folder). When the block raises, the temporary is removed
    and `path` stays as it was. The temporary keeps the suffix, so that libraries that look at it still work.
    A folder is never replaced by a file, and by a folder in two renames; a kill between them leaves the old one beside,
    as `.NAME.old<pid>`.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with atomic_path(target) as temporary:
    ...     _ = temporary.write_text("kept")
    >>> target.read_text(), temporary.exists()
    ('kept', False)

    Raises:
        UserError: `path` is a folder and a file was written.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp{os.getpid()}{path.suffix}")
    _remove(temporary)  # a killed process of the same number may have left it
    try:
        yield temporary
        _flush(temporary)
        if path.is_dir() and not temporary.is_dir():
            raise UserError(f"{path} is a folder, but a file is to be written there: name a file.")
        if path.is_dir():  # os.replace cannot put a folder over a non-empty one
            old = path.with_name(f".{path.name}.old{os.getpid()}")
            _remove(old)
            try:
                os.replace(path, old)
                os.replace(temporary, path)
            finally:
                if not path.exists():
                    os.replace(old, path)
            _remove(old)
        else:
            os.replace(temporary, path)
    finally:
        _remove(temporary)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def read_record(path: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        UserError: the file is missing, is not JSON, or holds something else.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise UserError(f"{path} must hold a JSON object, got {type(record).__name__}; restore it or make it anew.")
    return record


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or make it anew.") from None


class RunFolder:
    """Paths and records of one run.

    ```
    config.json  metrics.jsonl  checkpoints/kimg-000120.000/  samples/  traversals/  report.html  events.out.tfevents.*
    ```
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.samples_path = self.path / "samples"
        self.traversals_path = self.path / "traversals"
        self._checkpoints_path = self.path / "checkpoints"

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """An existing run.

        Raises:
            UserError: `path` holds no run.
        """
        run = cls(path)
        if not run.config_path.is_file():
            raise UserError(f"{run.path} is not a run: expected {run.config_path}. Give a folder that `train` made.")
        return run

    @classmethod
    def create(cls, path: str | Path) -> "RunFolder":
        """A new run in an empty or missing folder.

        Raises:
            UserError: the folder holds something already.
        """
        run = cls(path)
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise UserError(f"{run.path} exists and is not empty. Choose another --out, or go on with --resume.")
        run.path.mkdir(parents=True, exist_ok=True)
        return run

    @property
    def name(self) -> str:
        """The folder's own name, also where the path is `.`."""
        return self.path.resolve().name

    def config(self) -> dict[str, Any]:
        """What config.json holds.

        Raises:
            UserError: it is missing or damaged.
        """
        return read_record(self.config_path)

    def provenance(self) -> dict[str, Any]:
        """Where the run came from: data, command, what it was fine-tuned or rotated from."""
        return dict(self.config().get("provenance") or {})

    def state(self) -> dict[str, Any]:
        """Counters of the newest checkpoint.

        Raises:
            UserError: there is no checkpoint, or its state.json does not say how long it was trained.
        """
        path = self.latest_checkpoint() / "state.json"
        state = read_record(path)
        if not isinstance(state.get("kimg"), int | float):
            raise UserError(f"{path} does not hold a number `kimg`; delete that checkpoint to use an older one.")
        return state

    def trained_kimg(self) -> float:
        """Thousands of images that the newest checkpoint has seen, those before a fine-tuning included."""
        return float(self.state()["kimg"]) + float(self.provenance().get("finetuned_from_kimg") or 0.0)

    def checkpoint_path(self, kimg: float) -> Path:
        """Where the checkpoint after `kimg` thousand images lies."""
        return self._checkpoints_path / f"kimg-{kimg:010.3f}"

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self._checkpoints_path.glob("kimg-*"))

    def latest_checkpoint(self) -> Path:
        """The newest complete checkpoint.

        Raises:
            UserError: there is none.
        """
        found = self.checkpoints()
        if not found:
            raise UserError(f"{self.path} has no checkpoint under {self._checkpoints_path}. Train it first.")
        return found[-1]

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add one JSON line to metrics.jsonl and flush it."""
        with self.metrics_path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def metrics(self) -> list[dict[str, Any]]:
        """All complete records; a last line cut short by a kill is left out.

        Raises:
            UserError: an earlier line is damaged.
        """
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text(errors="replace").split("\n")  # the last is empty or cut short
        records = []
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                if number < len(lines):
                    where = f"Line {number} of {self.metrics_path}"
                    raise UserError(f"{where} is not valid JSON ({error}); restore or delete that line.") from None
                continue
            if not isinstance(record, dict) or not isinstance(record.get("kimg"), int | float):
                raise UserError(f"Line {number} of {self.metrics_path} is no record with `kimg`; delete that line.")
            records.append(record)
        return records

    def rewind_metrics(self, kimg: float) -> None:
        """Drop the records that lie after `kimg`, so that a resumed run writes each of them once."""
        kept = [record for record in self.metrics() if record["kimg"] <= kimg + 1e-9]
        with atomic_path(self.metrics_path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value


def from_record(kind: type[T], record: Any, where: str) -> T:
    """The dataclass `kind` from what `dataclasses.asdict` and JSON made of it, strictly.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Size:
    ...     widths: tuple[int, ...] = (1,)
    >>> from_record(Size, {"widths": [2, 3]}, "config.json")
    Size(widths=(2, 3))

    Args:
        where: the file and field that the record came from, for messages.

    Raises:
        UserError: a field is unknown.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where} must be an object with the fields of {kind.__name__}, got {record!r}.")
    types = get_type_hints(kind)
    unknown = sorted(set(record) - set(types))
    if unknown:
        raise UserError(f"{where} has unknown fields {', '.join(unknown)}; known ones: {', '.join(types)}.")
    values = {}
    for name, value in record.items():
        for part in get_args(types[name]) or (types[name],):  # a dataclass, or one that may be missing
            if isinstance(part, type) and dataclasses.is_dataclass(part) and value is not None:
                value = from_record(part, value, f"{where}.{name}")
        values[name] = _as_tuples(value)
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{where} cannot be read as {kind.__name__}: {error}.") from None
