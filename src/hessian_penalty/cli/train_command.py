"""`hessian-penalty train`."""

import argparse
import contextlib
import dataclasses
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
import tyro

from hessian_penalty.cli.command_line import command_line
from hessian_penalty.cli.cost_table import print_cost
from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.metrics.activeness import activeness
from hessian_penalty.reports.monitor import PictureMonitor
from hessian_penalty.reports.wandb_monitor import WandbMonitor, import_wandb
from hessian_penalty.runs import RunFolder
from hessian_penalty.training.callbacks import Callback, LiveProgress
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.estimate import estimate
from hessian_penalty.training.presets import PRESETS, Method
from hessian_penalty.training.session import resume_run, start_run
from hessian_penalty.training.trainer import Trainer


@dataclass
class Session:
    """Where a run trains and how it is watched."""

    accelerator: str = "auto"
    """Device, as Lightning Fabric names it: auto, cpu, gpu, mps."""
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    """Number format; the penalty is always computed in 32 bits."""
    video_every: int = 0
    """Film the traversals at every so many snapshots; 0: at the last one only."""
    wandb: str | None = None
    """Log to this project of Weights & Biases too, where `wandb` is installed; TensorBoard is always there."""


@dataclass
class Command:
    """Train a ProGAN on a data set, with or without the Hessian Penalty.

    `hessian-penalty train clevr-simple-tiny --data datasets/clevr-simple --out runs/vanilla` trains the preset as it
    is, which is an ordinary GAN; every field of it is a flag. `--method hessian` trains it with the Hessian Penalty
    from scratch, `--method infogan` and `--method orojar` with those. `--finetune RUN --method hessian` starts from a
    trained run's networks and ramps the penalty in; `--penalty.adaptive 0.1` sets its strength. `--resume RUN` goes on
    with an interrupted run, with the settings it has: `hessian-penalty train --resume RUN`. Ctrl-C saves a checkpoint
    before it stops.

    Presets named as in the paper have its values (128 pixels, 50,000 kimg: see `--dry-run`); those that end in -tiny
    finish on two cores in minutes.
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
    method: Method = "vanilla"
    """How latents are to be disentangled, with the preset's settings for it: not at all, by InfoGAN, by Orthogonal
    Jacobian Regularization, by the Hessian Penalty, or by it with the paper's fixed weight and maximum (published),
    from which those presets that end in -tiny differ. From scratch; with --finetune the penalties are ramped in, while
    InfoGAN needs a run that began as one. Other flags override the method's."""
    session: Annotated[Session, tyro.conf.arg(name="")] = field(default_factory=Session)
    """Where it trains and how it is watched."""
    preset: tyro.conf.Suppress[str | None] = None

    def run(self) -> None:
        """Train, or estimate."""
        check_number("--video-every", self.session.video_every, 0)
        if self.session.wandb is not None:
            import_wandb()  # complains before anything is made
        if self.dry_run:
            self._estimate()
        else:
            self._start()

    def _estimate(self) -> None:
        with progress_bar("estimating (resolutions)") as update:
            found = estimate(
                self.training, accelerator=self.session.accelerator, precision=self.session.precision, progress=update
            )
        print_cost(self.training, found)

    def _start(self) -> None:
        if self.data is None or self.out is None:
            given = {"--data": self.data, "--out": self.out}
            missing = " and ".join(flag for flag, value in given.items() if value is None)
            make_data = PRESETS[self.preset].data if self.preset else PRESETS["clevr-simple-tiny"].data
            raise UserError(
                f"{missing} missing. For instance: hessian-penalty train {self.preset} --data datasets/clevr-simple "
                f"--out runs/{self.preset}; `{make_data}` makes the data."
            )
        trainer = start_run(
            self.training,
            ImageDataset(self.data),
            self.out,
            finetune=RunFolder.open(self.finetune) if self.finetune else None,
            provenance={"preset": self.preset, "method": self.method, "command": command_line()},
            accelerator=self.session.accelerator,
            precision=self.session.precision,
        )
        train_in_sight(trainer, self.session)


@dataclass
class Resume:
    """Go on with an interrupted run, with the settings it has."""

    resume: Path
    """The run."""
    data: Path | None = None
    """Where its data set is, if it was moved."""
    session: Annotated[Session, tyro.conf.arg(name="")] = field(default_factory=Session)
    """Where it trains and how it is watched."""

    def run(self) -> None:
        """Go back to the newest checkpoint and train on."""
        run = RunFolder.open(self.resume)
        trainer = resume_run(
            run, data=self.data, accelerator=self.session.accelerator, precision=self.session.precision
        )
        print(f"{run.path}: resumed at {trainer.kimg:g} of {trainer.config.total_kimg:g} kimg")
        train_in_sight(trainer, self.session)


def _quick_activeness(generator: Generator) -> list[float]:
    return activeness(generator, samples=32, rng=torch.Generator().manual_seed(0)).tolist()


def train_in_sight(trainer: Trainer, session: Session) -> None:
    """Train with a progress bar, and pictures in the run folder, in TensorBoard and in Weights & Biases."""
    run = trainer.run
    assert run is not None  # every caller gives it one
    with contextlib.ExitStack() as stack:
        pictures = PictureMonitor(run, activeness=_quick_activeness, video_every=session.video_every)
        monitors: list[Callback] = [stack.enter_context(contextlib.closing(pictures))]
        if session.wandb is not None:  # after the pictures, which it takes from the run folder
            monitors.append(stack.enter_context(contextlib.closing(WandbMonitor(run, session.wandb))))
        update = stack.enter_context(progress_bar("training (kimg)"))
        trainer.callbacks = [*monitors, LiveProgress(update)]
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
    if preset is None and not {"--help", "-h"} & set(arguments):
        raise UserError(f"Name a preset first: one of {', '.join(PRESETS)}; or --resume RUN.")
    known, _ = _settings_choice().parse_known_args(arguments)
    if known.method not in get_args(Method):
        raise UserError(f"--method must be one of {', '.join(get_args(Method))}, got {known.method!r}.")
    training = PRESETS[preset].training(known.method, finetune=known.finetune is not None) if preset else None
    default = Command(training=training or TrainingConfig(), preset=preset)
    prog = f"hessian-penalty train {preset or 'PRESET'}"
    tiny = ", ".join(name for name in PRESETS if name.endswith("-tiny"))
    published = ", ".join(name for name in PRESETS if not name.endswith("-tiny"))
    description = f"{inspect.getdoc(Command)}\n\nPublished: {published}.\n\nFor two cores: {tiny}."
    command: Command = tyro.cli(Command, args=arguments, default=default, prog=prog, description=description)
    return dataclasses.replace(command, preset=preset)


def _settings_choice() -> argparse.ArgumentParser:
    """Reads the two words on which the preset's settings depend; all others are tyro's."""
    parser = argparse.ArgumentParser("hessian-penalty train", add_help=False, allow_abbrev=False)
    parser.add_argument("--method", nargs="?", default="vanilla", const="vanilla")
    parser.add_argument("--finetune", nargs="?")
    return parser
