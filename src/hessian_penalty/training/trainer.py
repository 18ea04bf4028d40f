"""The training loop: critic step, generator step with the penalty, moving average, checkpoints."""

import contextlib
import copy
import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_module, read_tensors
from hessian_penalty.generators.progan import ProGANCritic, ProGANGenerator
from hessian_penalty.optimizer_state import load_optimizer_tensors
from hessian_penalty.penalty import CollapsedError, HessianPenalty
from hessian_penalty.penalty.layers import match_layers
from hessian_penalty.runs import RunFolder
from hessian_penalty.training import checkpoints
from hessian_penalty.training.callbacks import Callback
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.data_order import data_indices
from hessian_penalty.training.interrupts import deferred_interrupt
from hessian_penalty.training.losses import critic_loss, generator_loss, r1_penalty

NetworkT = TypeVar("NetworkT", bound=nn.Module)

DIVERGED_LOSS = 1e4  # the logistic losses of a healthy run stay below about 10


@runtime_checkable
class Images(Protocol):
    """What training needs of a data set."""

    def __len__(self) -> int: ...

    def batch(self, indices: Any, resolution: int | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1]."""
        ...


def make_penalty(config: PenaltyConfig, generator: ProGANGenerator) -> HessianPenalty | None:
    """The regulariser that the configuration asks for; None for a vanilla run.

    Raises:
        UserError: a layer glob matches nothing.
    """
    if not config.enabled:
        return None
    try:
        if config.layers:
            match_layers(generator, config.layers)
        return HessianPenalty(
            generator,
            weight=config.weight or 1.0,
            adaptive=config.adaptive or None,
            layers=config.layers or None,
            k=config.k,
            epsilon=config.epsilon,
            reduction=config.reduction,
            scale_free=config.scale_free,
            start_kimg=config.start_kimg,
            ramp_kimg=config.ramp_kimg,
            interval=config.interval,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"penalty: {error}") from error


class Trainer:
    """Networks, optimisers and random state of one run, and the loop over them.

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
        self.images_seen = 0
        self.steps = 0
        torch.manual_seed(config.seed)
        generator, critic = ProGANGenerator(config.generator), ProGANCritic(config.generator)
        try:
            self.fabric = Fabric(accelerator=accelerator, devices=1, precision=precision)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"accelerator {accelerator!r}, precision {precision!r}: {error}") from None
        betas = (0.0, config.adam_beta2)
        self.generator, self.generator_optimizer = self._set_up(generator, betas)
        self.critic, self.critic_optimizer = self._set_up(critic, betas)
        self.ema = copy.deepcopy(generator).eval().requires_grad_(False)
        self.networks: dict[str, nn.Module] = {"generator": generator, "ema": self.ema, "critic": critic}
        self._optimizers = {"generator": self.generator_optimizer, "critic": self.critic_optimizer}
        self.rng = torch.Generator(self.fabric.device).manual_seed(config.seed)
        self.penalty = make_penalty(config.penalty, generator)

    def _set_up(self, network: NetworkT, betas: tuple[float, float]) -> tuple[NetworkT, Any]:
        """Move a network to the device and give it its optimiser.

        The network itself is returned, not Fabric's wrapper: R1 and the penalty take gradients of its outputs, which
        the wrapper forbids in mixed precision.
        """
        optimizer = torch.optim.Adam(network.parameters(), lr=self.config.learning_rate, betas=betas)
        _, optimizer = self.fabric.setup(network, optimizer)
        return network, optimizer

    @property
    def kimg(self) -> float:
        """Thousands of real images seen."""
        return self.images_seen / 1000

    # checkpoints

    def save(self) -> Path:
        """Write a checkpoint and drop the oldest beyond `keep_checkpoints`.

        Raises:
            UserError: weights are not finite.
        """
        run = self._run()
        for name, network in self.networks.items():
            if not all(bool(torch.isfinite(weights).all()) for weights in network.parameters()):
                raise self._diverged(f"the {name}'s weights are not finite")
        path = run.checkpoint_path(self.kimg)
        state = {
            "kimg": self.kimg,
            "images_seen": self.images_seen,
            "steps": self.steps,
            "penalty": self.penalty.state_dict() if self.penalty else None,
        }
        checkpoints.save_checkpoint(path, self.networks, self._optimizers, {"trainer": self.rng.get_state()}, state)
        for old in run.checkpoints()[: -self.config.keep_checkpoints]:
            shutil.rmtree(old)
        return path

    def resume(self) -> None:
        """Go back to the run's newest checkpoint.

        Raises:
            UserError: there is none, or it is damaged.
        """
        run = self._run()
        path = run.latest_checkpoint()
        self._load_networks(path)
        state, rng = run.state(), read_tensors(path / "rng.safetensors")
        try:
            self.images_seen, self.steps = state["images_seen"], state["steps"]
            if self.penalty:
                self.penalty.load_state_dict(state["penalty"])
            rng_state = rng["trainer"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to go on from an older checkpoint.") from None
        try:
            self.rng.set_state(rng_state)
        except RuntimeError:
            raise UserError(
                f"{path} was written on another kind of device than {self.fabric.device}, whose random numbers cannot "
                "go on there: resume with the --accelerator that the run began with."
            ) from None
        run.rewind_metrics(self.kimg)

    def start_from(self, path: Path) -> None:
        """Take networks, moving average and optimisers from another run's checkpoint; counters start at 0.

        A checkpoint that was made small leaves the optimisers out: Adam then gathers its moments anew.

        Raises:
            UserError: its networks are of another shape.
        """
        self._load_networks(path, optimizers_required=False)

    def _load_networks(self, path: Path, *, optimizers_required: bool = True) -> None:
        for name, module in self.networks.items():
            load_module(module, path / f"{name}.safetensors")
        for name, optimizer in self._optimizers.items():
            file = path / f"{name}_optimizer.safetensors"
            if optimizers_required or file.exists():
                load_optimizer_tensors(optimizer, read_tensors(file))

    def _run(self) -> RunFolder:
        if self.run is None:
            raise ValueError("This trainer has no run folder: give `run`.")
        return self.run

    # the loop

    def train(self) -> None:
        """Train to `total_kimg`.

        Ctrl-C ends the step it comes in, saves a checkpoint and raises KeyboardInterrupt; a second one stops at once.

        Raises:
            UserError: a loss or weight is not finite or has run away; names the last good checkpoint.
        """
        total = round(self.config.total_kimg * 1000)
        sums: dict[str, list[float]] = {}
        last_log, last_time, last_images = self.kimg, time.perf_counter(), self.images_seen
        last_snapshot = self.kimg
        with deferred_interrupt() as interrupted:
            while self.images_seen < total:
                losses = self.step()
                for name, value in losses.items():
                    sums.setdefault(name, []).append(value)
                for callback in self.callbacks:
                    callback.on_step(self.kimg, self.config.total_kimg)
                done = self.images_seen >= total
                if done or self.kimg - last_log >= self.config.log_kimg - 1e-9:
                    now = time.perf_counter()
                    rate = (self.images_seen - last_images) / (now - last_time)
                    means = {name: sum(values) / len(values) for name, values in sums.items()}
                    self._log({"kimg": self.kimg, "images_per_second": rate, **means})
                    sums, last_log, last_time, last_images = {}, self.kimg, now, self.images_seen
                if done or self.kimg - last_snapshot >= self.config.snapshot_kimg - 1e-9:
                    last_snapshot = self.kimg
                    self._snapshot()
                    last_time, last_images = time.perf_counter(), self.images_seen
                if interrupted():
                    if self.run is not None:
                        self.save()
                    raise KeyboardInterrupt

    def step(self) -> dict[str, float]:
        """One critic and one generator update; returns the losses."""
        losses = self._critic_step()
        losses |= self._generator_step()
        self._update_ema()
        self.images_seen += self.config.batch_size
        self.steps += 1
        return losses

    def _critic_step(self) -> dict[str, float]:
        config = self.config
        indices = data_indices(self.images_seen, config.batch_size, len(self.dataset), config.seed)
        reals = self.dataset.batch(indices, config.generator.resolution)
        reals = self.fabric.to_device(reals).contiguous(memory_format=torch.channels_last)
        with_r1 = self.steps % config.r1_interval == 0 and config.r1_gamma > 0
        reals.requires_grad_(with_r1)
        with torch.no_grad(), self.fabric.autocast():
            fakes = self.generator(self._latents())
        with contextlib.nullcontext() if with_r1 else self.fabric.autocast():  # R1 differentiates twice: in float32
            real_scores = self.critic(reals).float()
        with self.fabric.autocast():
            fake_scores = self.critic(fakes).float()
        loss = critic_loss(real_scores, fake_scores)
        losses = {"critic_loss": loss.item(), "score_margin": (real_scores.mean() - fake_scores.mean()).item()}
        self._check(losses)
        if with_r1:
            r1 = r1_penalty(real_scores, reals)
            losses["r1"] = r1.item()
            loss = loss + config.r1_gamma * config.r1_interval * r1
        self.critic_optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.critic_optimizer.step()
        return losses

    def _generator_step(self) -> dict[str, float]:
        self.critic.requires_grad_(False)
        z = self._latents()
        with self.fabric.autocast():
            images = self.penalty.generate(z, kimg=self.kimg) if self.penalty else self.generator(z)
            scores = self.critic(images).float()
        loss = generator_loss(scores)
        losses = {"generator_loss": loss.item()}
        self._check(losses)
        if self.penalty:
            try:
                loss = loss + self.penalty(z, kimg=self.kimg, main_loss=loss, rng=self.rng)
            except CollapsedError as error:
                raise self._diverged(f"penalty: {error}") from error
            losses["penalty_weight"] = self.penalty.last_weight
            if self.penalty.value is not None:
                losses["penalty"] = float(self.penalty.value)
        self.generator_optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.generator_optimizer.step()
        self.critic.requires_grad_(True)
        return losses

    @torch.no_grad()
    def _update_ema(self) -> None:
        keep = 0.5 ** (self.config.batch_size / (self.config.ema_half_life_kimg * 1000))
        averaged: list[Tensor] = list(self.ema.parameters())
        current: list[Tensor] = list(self.generator.parameters())
        torch._foreach_lerp_(averaged, current, 1 - keep)

    def _latents(self) -> Tensor:
        return self.ema.sample_latents(self.config.batch_size, self.rng)

    def _check(self, losses: dict[str, float]) -> None:
        bad = {name: value for name, value in losses.items() if not abs(value) <= DIVERGED_LOSS}
        if bad:
            raise self._diverged(", ".join(f"{name} = {value:g}" for name, value in bad.items()))

    def _diverged(self, why: str) -> UserError:
        saved = self.run.checkpoints() if self.run else []
        last = f"The last good checkpoint is {saved[-1]}" if saved else "There is no checkpoint yet"
        return UserError(
            f"Training diverged at {self.kimg:.3f} kimg: {why}. {last}. Lower --learning-rate, raise --r1-gamma, or "
            "weaken the penalty."
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
            callback.on_snapshot(self.run, self.ema, self.kimg)


def config_record(config: TrainingConfig, **provenance: Any) -> dict[str, Any]:
    """What config.json holds: the configuration's fields, and where the run came from under "provenance"."""
    return {**dataclasses.asdict(config), "provenance": provenance}
