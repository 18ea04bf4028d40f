"""A run's curves, pictures and videos in Weights & Biases; needs `wandb`."""

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.runs import RunFolder, read_record, write_json
from hessian_penalty.training.callbacks import Callback

RECORD_NAME = "wandb.json"  # in the run folder: project and id of the run over there


def import_wandb() -> Any:
    """The module `wandb`.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise UserError(
            f"Logging to Weights & Biases needs `wandb`, which cannot be imported ({error}): pip install wandb"
        ) from None


class WandbMonitor(Callback):
    """Logs to Weights & Biases what `PictureMonitor` puts into TensorBoard: the same figures, pictures and videos.

    Pictures and videos are those in the run folder, so this callback comes after `PictureMonitor`. Steps are real
    images seen. A resumed run goes on in the same run over there; what it trains again between its checkpoint and the
    point of interruption is there already, and Weights & Biases ignores it. `WANDB_MODE=offline` keeps all in the run
    folder.

    Args:
        run: the run folder.
        project: where the run is listed; made if it is not there.
        config: settings to show beside the run; None shows those in its config.json.

    Raises:
        UserError: `wandb` is not installed or refuses to begin; or the run is in another project, or its record of
            that is damaged.
    """

    def __init__(self, run: RunFolder, project: str, *, config: Mapping[str, Any] | None = None) -> None:
        self._wandb = import_wandb()
        record_path = run.path / RECORD_NAME
        run_id = _recorded_id(run, project) if record_path.exists() else None
        try:
            self._run: Any = self._wandb.init(
                project=project,
                name=run.name,
                id=run_id,
                resume="allow",
                dir=str(run.path.resolve()),
                config=dict(run.config() if config is None else config),
            )
        except self._wandb.errors.Error as error:
            raise UserError(
                f"Weights & Biases does not begin the run: {error}. Log in with `wandb login`, or set "
                "WANDB_MODE=offline to upload it later."
            ) from error
        write_json(record_path, {"project": project, "id": self._run.id})

    def on_log(self, record: dict[str, float]) -> None:
        """Log every figure of the record but kimg, which is the step."""
        figures = {f"training/{name}": value for name, value in record.items() if name != "kimg"}
        self._log(figures, record["kimg"])

    def on_snapshot(self, run: RunFolder, ema: ProGANGenerator, kimg: float) -> None:
        """Log the pictures and the video of this snapshot, those that there are."""
        name = run.checkpoint_path(kimg).name
        media = (
            ("samples", run.samples_path / f"{name}.png", self._wandb.Image),
            ("traversals", run.traversals_path / f"{name}.png", self._wandb.Image),
            ("traversals_in_motion", run.traversals_path / f"{name}.mp4", partial(self._wandb.Video, format="mp4")),
        )
        self._log({tag: kind(str(path)) for tag, path, kind in media if path.exists()}, kimg)

    def close(self) -> None:
        """End the run over there, once all is uploaded; safe to call twice."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _log(self, values: dict[str, Any], kimg: float) -> None:
        self._run.log(values, step=round(kimg * 1000))


def _recorded_id(run: RunFolder, project: str) -> str:
    path = run.path / RECORD_NAME
    record = read_record(path)
    known, run_id = record.get("project"), record.get("id")
    if not isinstance(known, str) or not isinstance(run_id, str):
        raise UserError(f"{path} must hold `project` and `id`; delete it to begin a new run in Weights & Biases.")
    if known != project:
        raise UserError(
            f"{run.path} is in the project {known!r} of Weights & Biases, got {project!r}: go on there, or delete "
            f"{path} to begin a new run."
        )
    return run_id
