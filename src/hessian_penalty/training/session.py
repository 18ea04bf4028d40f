"""Begin a run in its folder, or go on with one: what `train` and the studies share."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config
from hessian_penalty.runs import RunFolder, from_record, write_json
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.trainer import Trainer, config_record


def check_fits(config: TrainingConfig, dataset: ImageDataset) -> None:
    """Refuse a data set that the generator cannot learn from.

    Raises:
        UserError: channels or resolution differ.
    """
    wanted = config.generator.image_channels
    if dataset.image_channels != wanted:
        raise UserError(
            f"{dataset.path} has {dataset.image_channels}-channel images, the generator makes {wanted}: "
            f"set --generator.image-channels {dataset.image_channels}."
        )
    dataset.batch([0], config.generator.resolution)  # complains where the sizes do not fit


def check_same_networks(config: TrainingConfig, other: RunFolder) -> None:
    """Refuse to fine-tune into networks of other settings, some of which no tensor's shape would betray.

    Raises:
        UserError: a field differs; names it.
    """
    theirs = generator_config(other)
    settings = [
        (f"generator.{f.name}", getattr(config.generator, f.name), getattr(theirs, f.name)) for f in fields(theirs)
    ]
    latents = (other.config().get("infogan") or {}).get("latents", 0)
    for name, ours, its in [*settings, ("infogan.latents", config.infogan.latents, latents)]:
        if ours != its:
            raise UserError(f"{name} is {ours}, but {other.path} was trained with {its}; a fine-tuning keeps it.")


def _fully_grown(config: TrainingConfig) -> TrainingConfig:
    """The same run without growth: a fine-tuning begins at full resolution."""
    if not config.generator.grows:
        return config
    return replace(config, growth=replace(config.growth, first_resolution=config.generator.resolution))


def start_run(
    config: TrainingConfig,
    dataset: ImageDataset,
    out: str | Path,
    *,
    finetune: RunFolder | None = None,
    provenance: dict[str, Any] | None = None,
    **device: Any,
) -> Trainer:
    """A new run in `out`, ready to train.

    Args:
        finetune: start from the networks of this run's newest checkpoint.
        provenance: further facts for config.json.
        device: `accelerator` and `precision`, as `Trainer` takes them.

    Raises:
        UserError: the data does not fit, `out` is not empty, or the other run's networks do not fit.
    """
    check_fits(config, dataset)
    if finetune is not None:
        check_same_networks(config, finetune)
        config = _fully_grown(config)
    trainer = Trainer(config, dataset, **device)
    facts: dict[str, Any] = {"data": str(dataset.path.resolve()), "data_sha256": dataset.sha256}
    if finetune is not None:
        trainer.start_from(finetune.latest_checkpoint())
        if trainer.state.generator.lod > 0:
            raise UserError(
                f"{finetune.path} has not grown to its full resolution yet: go on with it by --resume {finetune.path}, "
                "then fine-tune."
            )
        facts |= {"finetuned_from": finetune.name, "finetuned_from_kimg": finetune.trained_kimg()}
    trainer.run = RunFolder.create(out)
    write_json(trainer.run.config_path, config_record(config, **facts, **(provenance or {})))
    return trainer


def settings_of(run: RunFolder) -> TrainingConfig:
    """The settings that a run has in its config.json.

    Raises:
        UserError: they cannot be read.
    """
    record = run.config()
    record.pop("provenance", None)
    return from_record(TrainingConfig, record, str(run.config_path))


def resume_run(run: RunFolder, *, data: str | Path | None = None, **device: Any) -> Trainer:
    """Go back to a run's newest checkpoint, ready to train on with the settings it has.

    A run that was stopped before its first checkpoint begins again.

    Args:
        data: where its data set is, if it was moved.

    Raises:
        UserError: the configuration or checkpoint cannot be read, or the data set is missing or another one.
    """
    config, provenance = settings_of(run), run.provenance()
    data = data or provenance.get("data")
    if data is None:
        raise UserError(f"{run.config_path} does not say which data set the run used: give --data.")
    dataset = ImageDataset(data)
    if provenance.get("data_sha256", dataset.sha256) != dataset.sha256:
        raise UserError(f"{dataset.path} is not the data set that {run.path} was trained on: give that one by --data.")
    check_fits(config, dataset)
    trainer = Trainer(config, dataset, run, **device)
    if run.checkpoints():
        trainer.resume()
    elif "finetuned_from" in provenance:
        raise UserError(f"{run.path} was stopped before its first checkpoint: delete it and fine-tune anew.")
    return trainer
