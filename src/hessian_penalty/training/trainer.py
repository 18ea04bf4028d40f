"""The training loop: critic step, generator step with the penalty, moving average, growth, snapshots."""

import contextlib
import copy
import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.folder_lock import exclusive
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.generators.progan_critic import ProGANCritic
from hessian_penalty.runs import RunFolder
from hessian_penalty.training.callbacks import Callback
from hessian_penalty.training.checkpoints import TrainingState
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.interrupts import deferred_interrupt
from hessian_penalty.training.regularization import make_penalty
from hessian_penalty.training.step import DivergedError, Images, TrainingStep

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class DivergedRun(UserError):
    """A run's losses or weights are not finite, or have run away; repeating it would end there again."""


class Trainer:
    """One run, and the loop over it.

    On the CPU a run resumed from any checkpoint reaches the same weights, bit for bit, as one never interrupted.

    Args:
        config: the run.
        dataset: real images.
        run: where it is kept; None keeps nothing (for a dry run).
        callbacks: told of steps, records and snapshots.
        accelerator, precision: passed to Lightning Fabric.
    """

    def __init__(
        self,
        config: TrainingConfig,
        dataset: Images,
        run: RunFolder | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        accelerator: str = "auto",
        precision: Any = "32-true",
    ) -> None:
        self.config, self.dataset, self.run, self.callbacks = config, dataset, run, callbacks
        if len(dataset) < 1:
            raise UserError("The data set is empty.")
        torch.manual_seed(config.seed)
        generator = ProGANGenerator(config.generator)
        critic = ProGANCritic(config.generator, code_dim=config.infogan.latents)
        try:
            self.fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"accelerator {accelerator!r}, precision {precision!r}: {error}") from None
        generator, generator_optimizer = self._set_up(generator)
        critic, critic_optimizer = self._set_up(critic)
        ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.state = TrainingState(
            generator, critic, ema, generator_optimizer, critic_optimizer,
            torch.Generator(self.fabric.device).manual_seed(config.seed), make_penalty(config.penalty, generator, ema),
        )  # fmt: skip
        self._step = TrainingStep(config, self.state, self.fabric)

    def _set_up(self, network: NetworkT) -> tuple[NetworkT, Any]:
        """Move a network to the device and give it its optimiser.

        The network itself is returned, not Fabric's wrapper: R1 and the penalty take gradients of its outputs, which
        the wrapper forbids in mixed precision.
        """
        betas = (0.0, self.config.adam_beta2)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, betas=betas)
        _, optimizer = self.fabric.setup(network, optimizer)
        return network, optimizer

    @property
    def kimg(self) -> float:
        """Thousands of real images seen."""
        return self.state.kimg

    # checkpoints

    def save(self) -> Path:
        """Write a checkpoint and drop the oldest beyond `keep_checkpoints`.

        Raises:
            DivergedRun: weights are not finite.
        """
        run = self._run()
        for name, network in self.state.networks.items():
            if not all(bool(torch.isfinite(weights).all()) for weights in network.parameters()):
                raise self._diverged(f"the {name}'s weights are not finite")
        path = run.checkpoint_path(self.kimg)
        self.state.save(path)
        for old in run.checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)
        return path

    def resume(self) -> None:
        """Go back to the run's newest checkpoint.

        Raises:
            UserError: there is none, or it is damaged.
        """
        run = self._run()
        run.state()  # complains where the counters cannot be read
        self.state.load(run.latest_checkpoint())

    def start_from(self, path: Path) -> None:
        """Take networks, moving average and optimisers from another run's checkpoint; counters start at 0.

        A checkpoint that was made small leaves the optimisers out: Adam then gathers its moments anew.

        Raises:
            UserError: its networks are of another shape.
        """
        self.state.load_networks(path, optimizers_required=False)

    def _run(self) -> RunFolder:
        if self.run is None:
            raise ValueError("This trainer has no run folder: give `run`.")
        return self.run

    # the loop

    def train(self) -> None:
        """Train to `total_kimg`.

        Ctrl-C ends the step it comes in, saves a checkpoint and raises KeyboardInterrupt; a second one stops at once.

        Raises:
            DivergedRun: a loss or weight is not finite or has run away; names the last good checkpoint.
            UserError: another process trains this run.
        """
        with exclusive(self.run.path) if self.run else contextlib.nullcontext():
            self._train()

    def _train(self) -> None:
        if self.run is not None:
            self.run.rewind_metrics(self.kimg)  # what an interrupted training recorded after its last checkpoint
        total = round(self.config.total_kimg * 1000)
        sums: dict[str, list[float]] = {}
        last_log, last_time, last_images = self.kimg, time.perf_counter(), self.state.images_seen
        last_snapshot = self.kimg
        with deferred_interrupt() as interrupted:
            while self.state.images_seen < total:
                losses = self.step()
                for name, value in losses.items():
                    sums.setdefault(name, []).append(value)
                for callback in self.callbacks:
                    callback.on_step(self.kimg, self.config.total_kimg)
                done = self.state.images_seen >= total
                if done or self.kimg - last_log >= self.config.log_kimg - 1e-9:
                    now = time.perf_counter()
                    rate = (self.state.images_seen - last_images) / (now - last_time)
                    means = {name: sum(values) / len(values) for name, values in sums.items()}
                    lod = {"lod": self.state.generator.lod} if self.config.generator.grows else {}
                    self._log({"kimg": self.kimg, "images_per_second": rate, **means, **lod})
                    sums, last_log, last_time, last_images = {}, self.kimg, now, self.state.images_seen
                if done or self.kimg - last_snapshot >= self.config.snapshot_kimg - 1e-9:
                    last_snapshot = self.kimg
                    self._snapshot()
                    last_time, last_images = time.perf_counter(), self.state.images_seen
                if interrupted():
                    if self.run is not None:
                        self.save()
                    raise KeyboardInterrupt

    def step(self) -> dict[str, float]:
        """One critic and one generator update; returns the losses.

        Raises:
            DivergedRun: a loss is not finite or has run away.
        """
        try:
            return self._step(self.dataset)
        except DivergedError as error:
            raise self._diverged(str(error)) from error

    def _diverged(self, why: str) -> DivergedRun:
        regulariser = "--r1-gamma" if self.config.loss == "logistic" else "--gradient-weight"
        saved = self.run.checkpoints() if self.run else []
        last = f"The last good checkpoint is {saved[-1]}" if saved else "There is no checkpoint yet"
        return DivergedRun(
            f"Training diverged at {self.kimg:.3f} kimg: {why}. {last}. Lower --learning-rate, raise {regulariser}, "
            "or weaken the penalty."
        )

    def _log(self, record: dict[str, float]) -> None:
        if self.run is not None:
            self.run.append_metrics(record)
        for callback in self.callbacks:
            callback.on_log(record)

    def _snapshot(self) -> None:
        if self.run is None:
            return
        self.save()
        for callback in self.callbacks:
            callback.on_snapshot(self.run, self.state.ema, self.kimg)


def config_record(config: TrainingConfig, **provenance: Any) -> dict[str, Any]:
    """What config.json holds: the configuration's fields, and where the run came from under "provenance"."""
    return {**dataclasses.asdict(config), "provenance": provenance}
