"""One step of a run: critic, generator with the penalty, moving average, at the present level of detail."""

import math
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor

from hessian_penalty.penalty import CollapsedError
from hessian_penalty.training.adversarial import make_adversarial
from hessian_penalty.training.checkpoints import TrainingState
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.data_order import data_indices
from hessian_penalty.training.infogan import information_loss
from hessian_penalty.training.regularization import has_grown_in
from hessian_penalty.training.schedule import Phase, phase_at


class DivergedError(ArithmeticError):
    """A loss is not finite, or has run away; says which."""


@runtime_checkable
class Images(Protocol):
    """What training needs of a data set."""

    def __len__(self) -> int: ...

    def batch(self, indices: Any, resolution: int | None = None) -> Tensor:
        """Images (N, C, H, W) in [-1, 1]."""
        ...


def blended(reals: Tensor, lod: float) -> Tensor:
    """Real images as a generator at this level of detail makes them: mixed with their own 2×2 averages, doubled."""
    fading = lod - math.floor(lod)
    return torch.lerp(reals, F.interpolate(F.avg_pool2d(reals, 2), scale_factor=2), fading) if fading else reals


class TrainingStep:
    """Takes a run one step further.

    Args:
        config: the run.
        state: what each step changes.
        fabric: devices and precision.
    """

    def __init__(self, config: TrainingConfig, state: TrainingState, fabric: Fabric) -> None:
        self.config, self.state, self.fabric = config, state, fabric
        self._adversarial = make_adversarial(config, fabric.autocast, state.rng)

    def __call__(self, dataset: Images) -> dict[str, float]:
        """One critic and one generator update; returns the losses.

        Raises:
            DivergedError: a loss is not finite or has run away.
        """
        phase = self._enter()
        losses = self._critic_step(phase, dataset)
        losses |= self._generator_step(phase)
        self._update_ema(phase.batch_size)
        self.state.images_seen += phase.batch_size
        self.state.steps += 1
        self._enter()  # what is saved now is as far grown as what it has seen
        return losses

    def _enter(self) -> Phase:
        """Set what the present phase says; where a level comes in or is complete, Adam forgets its moments."""
        state = self.state
        phase = phase_at(self.config, state.kimg)
        before = state.generator.lod
        if (math.floor(before), math.ceil(before)) != (math.floor(phase.lod), math.ceil(phase.lod)):
            for optimizer in state.optimizers.values():
                optimizer.state.clear()
        if before != phase.lod:
            for network in (state.generator, state.ema, state.critic):
                network.lod = phase.lod
        for optimizer in state.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = phase.learning_rate
        return phase

    def _critic_step(self, phase: Phase, dataset: Images) -> dict[str, float]:
        config, state = self.config, self.state
        indices = data_indices(state.images_seen, phase.batch_size, len(dataset), config.seed)
        reals = blended(dataset.batch(indices, phase.resolution), phase.lod)
        reals = self.fabric.to_device(reals).contiguous(memory_format=torch.channels_last)
        z = self._latents(phase)
        with torch.no_grad(), self.fabric.autocast():
            fakes = state.generator(z)
        scores, information = self._judge(fakes, z)
        loss, regularisation, figures = self._adversarial.critic_loss(
            state.critic, reals, scores, fakes,
            step=state.steps, pixel_size=config.generator.resolution / phase.resolution,
        )  # fmt: skip
        losses = {"critic_loss": loss.item()} | {name: figure.item() for name, figure in figures.items()}
        self._check(losses["critic_loss"], "critic_loss")
        if information is not None:
            losses["information_loss"] = information.item()
            loss = loss + config.infogan.weight * information
        self._update(state.critic_optimizer, loss + regularisation)
        return losses

    def _generator_step(self, phase: Phase) -> dict[str, float]:
        state, config = self.state, self.config
        penalty = state.penalty if has_grown_in(config.penalty, state.generator) else None
        state.critic.requires_grad_(False)
        z = self._latents(phase)
        with self.fabric.autocast():
            if penalty and not config.penalty.of_average:
                images = penalty.generate(z, kimg=state.kimg)
            else:
                images = state.generator(z)
        scores, information = self._judge(images, z)
        loss = self._adversarial.generator_loss(scores)
        losses = {"generator_loss": loss.item()}
        self._check(losses["generator_loss"], "generator_loss")
        if information is not None:
            loss = loss + config.infogan.weight * information
        if penalty:
            weights = state.generator.fade_in if config.penalty.layers and phase.lod else None
            try:
                loss = loss + penalty(z, kimg=state.kimg, main_loss=loss, rng=state.rng, layer_weights=weights)
            except CollapsedError as error:
                raise DivergedError(f"penalty: {error}") from error
            losses["penalty_weight"] = penalty.last_weight
            if penalty.value is not None:
                losses["penalty"] = float(penalty.value)
        self._update(state.generator_optimizer, loss)
        state.critic.requires_grad_(True)
        return losses

    def _judge(self, images: Tensor, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The critic's scores, and InfoGAN's loss where there is one."""
        critic = self.state.critic
        with self.fabric.autocast():
            if not self.config.infogan.latents:
                return critic(images).float(), None
            scores, codes = critic.scores_and_codes(images)
        return scores.float(), information_loss(z, codes.float())

    def _update(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        optimizer.step()

    @torch.no_grad()
    def _update_ema(self, batch_size: int) -> None:
        keep = 0.5 ** (batch_size / (self.config.ema_half_life_kimg * 1000))
        averaged: list[Tensor] = list(self.state.ema.parameters())
        current: list[Tensor] = list(self.state.generator.parameters())
        torch._foreach_lerp_(averaged, current, 1 - keep)

    def _latents(self, phase: Phase) -> Tensor:
        return self.state.ema.sample_latents(phase.batch_size, self.state.rng)

    def _check(self, loss: float, name: str) -> None:
        if not abs(loss) <= self._adversarial.largest_loss:
            raise DivergedError(f"{name} = {loss:g}")
