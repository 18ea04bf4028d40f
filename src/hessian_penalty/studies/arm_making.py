"""Make and measure one model of a study, in a process of its own; what is complete is kept."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, read_record, write_json
from hessian_penalty.studies.evaluation import Evaluator
from hessian_penalty.studies.rotation import rotate_run
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.session import resume_run, settings_of, start_run
from hessian_penalty.training.trainer import DivergedRun


def seconds_of(run: RunFolder) -> float:
    """How long the model took to make, with interrupted attempts that left a checkpoint."""
    path = run.path / "seconds.json"
    return float(read_record(path)["making"]) if path.exists() else 0.0


def recorded_kimg(run: RunFolder) -> float:
    """How far a training has come, as its records say."""
    with suppress(UserError):
        records = run.metrics()
        return float(records[-1]["kimg"]) if records else 0.0
    return 0.0


def divergence_of(run: RunFolder) -> str | None:
    """Why the model's training broke off, where it did."""
    path = run.path / "diverged.json"
    return str(read_record(path)["why"]) if path.exists() else None


@contextmanager
def _timed(run: RunFolder) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        if run.path.exists():
            write_json(run.path / "seconds.json", {"making": seconds_of(run) + time.monotonic() - start})


def is_made(run: RunFolder, total_kimg: float | None) -> bool:
    """Whether a model is complete; a rotated one, which has no `total_kimg`, is so once it is there."""
    if total_kimg is None:
        return run.path.exists()
    return bool(run.checkpoints()) and run.state()["kimg"] >= total_kimg - 1e-9


def train_arm(config: TrainingConfig, data: Path, out: Path, start: Path | None, provenance: dict[str, Any]) -> None:
    """Train a model, or go on with it.

    Raises:
        DivergedRun: now, or when it was tried before.
        UserError: it was begun with other settings.
    """
    run = RunFolder(out)
    if run.checkpoints():
        _require_settings(run, config)
    if (why := divergence_of(run)) is not None:
        raise DivergedRun(why)
    if is_made(run, config.total_kimg):
        return
    with _timed(run):
        if run.checkpoints():
            trainer = resume_run(run, data=data)
        else:
            shutil.rmtree(out, ignore_errors=True)  # stopped before its first checkpoint
            finetune = None if start is None else RunFolder.open(start)
            trainer = start_run(config, ImageDataset(data), out, finetune=finetune, provenance=provenance)
        try:
            trainer.train()
        except DivergedRun as error:
            write_json(out / "diverged.json", {"why": str(error)})
            raise


def _require_settings(run: RunFolder, config: TrainingConfig) -> None:
    held, wanted = asdict(settings_of(run)), asdict(config)
    # a fine-tuning begins fully grown
    differ = [name for name, value in wanted.items() if name != "growth" and held[name] != value]
    if differ:
        raise UserError(
            f"{run.path} was made with other settings ({', '.join(differ)}), perhaps by another version. Choose "
            "another --out, or delete that folder to make the model again."
        )


def rotate_arm(start: Path, out: Path, seed: int) -> None:
    """Turn a model onto its directions."""
    run = RunFolder(out)
    if not is_made(run, None):
        with _timed(run):
            rotate_run(RunFolder.open(start), out, seed=seed)


def measure_arm(data: Path, protocol: MeasureProtocol, resolution: int, run: Path) -> None:
    """Measure a model; the values are kept in its folder."""
    Evaluator(protocol, ImageDataset(data), resolution)(RunFolder.open(run))
