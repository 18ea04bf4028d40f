"""`hessian-penalty train`."""

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.metrics.activeness import activeness
from hessian_penalty.reports.monitor import PictureMonitor
from hessian_penalty.runs import RunFolder
from hessian_penalty.training.callbacks import LiveProgress
from hessian_penalty.training.config import PRESETS, TrainingConfig
from hessian_penalty.training.estimate import estimate
from hessian_penalty.training.session import resume_run, start_run
from hessian_penalty.training.trainer import Trainer


@dataclass
class Command:
    """Train a ProGAN on a data set, with or without the Hessian Penalty.

    `hessian-penalty train clevr-simple-tiny --data datasets/clevr-simple --out runs/vanilla` trains the preset as it
    is; every field of it is a flag. `--finetune RUN` starts from a trained run's networks; give it a penalty, such as
    `--penalty.adaptive 0.1 --penalty.scale-free --penalty.ramp-kimg 5`. `--resume RUN` goes on with an interrupted
    run, with the settings it has: `hessian-penalty train --resume RUN`. Ctrl-C saves a checkpoint before it stops.
    """

    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    """The run's settings."""
    data: Path | None = None
    """The data set: a folder that `render` or `import` made. A resumed run knows its own."""
    out: Path | None = None
    """Where the run goes: a new or empty folder."""
    finetune: Path | None = None
    """Start from this run's networks and optimisers."""
    dry_run: bool = False
    """Only say what the run would cost in time and memory on this machine."""
    accelerator: str = "auto"
    """Device, as Lightning Fabric names it: auto, cpu, gpu, mps."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format; the penalty is always computed in 32 bits."""
    preset: tyro.conf.Suppress[str | None] = None

    def run(self) -> None:
        """Train, or estimate."""
        if self.dry_run:
            self._estimate()
        else:
            self._start()

    def _estimate(self) -> None:
        found = estimate(self.training, accelerator=self.accelerator, precision=self.precision)
        sizes = ", ".join(f"{name} {count:,}" for name, count in found.parameters.items())
        print(
            f"{self.training.total_kimg:g} kimg at {self.training.generator.resolution} pixels on {found.device}: "
            f"{found.images_per_second:.0f} images/s, {found.seconds / 60:.0f} minutes "
            f"({found.seconds / 3600:.1f} hours), {found.peak_bytes / 2**20:.0f} MiB peak memory\nparameters: {sizes}"
        )

    def _start(self) -> None:
        if self.data is None or self.out is None:
            given = {"--data": self.data, "--out": self.out}
            missing = " and ".join(flag for flag, value in given.items() if value is None)
            raise UserError(
                f"{missing} missing. For instance: hessian-penalty train clevr-simple-tiny "
                "--data datasets/clevr-simple --out runs/vanilla; `hessian-penalty render clevr-simple` makes the data."
            )
        trainer = start_run(
            self.training,
            ImageDataset(self.data),
            self.out,
            finetune=RunFolder.open(self.finetune) if self.finetune else None,
            provenance={"preset": self.preset, "command": command_line()},
            accelerator=self.accelerator,
            precision=self.precision,
        )
        train_in_sight(trainer)


@dataclass
class Resume:
    """Go on with an interrupted run, with the settings it has."""

    resume: Path
    """The run."""
    data: Path | None = None
    """Where its data set is, if it was moved."""
    accelerator: str = "auto"
    """Device, as Lightning Fabric names it: auto, cpu, gpu, mps."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format."""

    def run(self) -> None:
        """Go back to the newest checkpoint and train on."""
        run = RunFolder.open(self.resume)
        trainer = resume_run(run, data=self.data, accelerator=self.accelerator, precision=self.precision)
        print(f"{run.path}: resumed at {trainer.kimg:g} of {trainer.config.total_kimg:g} kimg")
        train_in_sight(trainer)


def _quick_activeness(generator: Generator) -> list[float]:
    return activeness(generator, samples=32, rng=torch.Generator().manual_seed(0)).tolist()


def train_in_sight(trainer: Trainer) -> None:
    """Train with a progress bar, and pictures in the run folder and in TensorBoard."""
    run = trainer.run
    assert run is not None  # every caller gives it one
    pictures = PictureMonitor(run, activeness=_quick_activeness)
    with progress_bar("training (kimg)") as update, contextlib.closing(pictures):
        trainer.callbacks = [pictures, LiveProgress(update)]
        try:
            trainer.train()
        except KeyboardInterrupt:
            if run.checkpoints():
                print(f"\n{run.latest_checkpoint()} is saved. Go on with: hessian-penalty train --resume {run.path}")
            raise
    print(
        f"{run.path}: {trainer.kimg:g} kimg. Pictures in {run.samples_path} and {run.traversals_path}.\n"
        f"Next: hessian-penalty rotate {run.path} --out {run.path}-rotated"
    )


def parse(arguments: Sequence[str]) -> Command | Resume:
    """The command from its words: `--resume RUN`, or a preset and flags that override it.

    Raises:
        UserError: the preset is unknown or missing.
    """
    arguments = list(arguments)
    if any(word.split("=")[0] == "--resume" for word in arguments):
        if not arguments[0].startswith("-"):
            raise UserError(f"A resumed run has its own settings: leave {arguments[0]!r} out.")
        return tyro.cli(Resume, args=arguments, prog="hessian-penalty train")
    preset = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if preset is not None and preset not in PRESETS:
        raise UserError(f"Unknown preset {preset!r}; choose one of {', '.join(PRESETS)}.")
    default = Command(training=PRESETS[preset] if preset else TrainingConfig(), preset=preset)
    if preset is None and not {"--help", "-h"} & set(arguments):
        raise UserError(f"Name a preset first: one of {', '.join(PRESETS)}; or --resume RUN.")
    prog = f"hessian-penalty train {preset or '[' + '|'.join(PRESETS) + ']'}"
    command: Command = tyro.cli(Command, args=arguments, default=default, prog=prog)
    return dataclasses.replace(command, preset=preset)
