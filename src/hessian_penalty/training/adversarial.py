"""The adversarial game of a run: what critic and generator minimise, whichever loss is chosen."""

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hessian_penalty.training import losses, wasserstein
from hessian_penalty.training.config import TrainingConfig

Autocast = Callable[[], AbstractContextManager[None]]


@runtime_checkable
class Adversarial(Protocol):
    """What the training loop needs of a loss.

    Attributes:
        largest_loss: beyond which a run has diverged.
    """

    largest_loss: float

    def critic_loss(
        self, critic: nn.Module, reals: Tensor, fake_scores: Tensor, fakes: Tensor, *, step: int, pixel_size: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss without regularisers, their weighted sum, and further figures for the record."""
        ...

    def generator_loss(self, fake_scores: Tensor) -> Tensor:
        """The generator's loss."""
        ...


class Logistic:
    """Non-saturating logistic loss with R1 at every `r1_interval`-th step."""

    largest_loss = 1e4  # those of a healthy run stay below about 10

    def __init__(self, config: TrainingConfig, autocast: Autocast) -> None:
        self._gamma, self._interval, self._autocast = config.r1_gamma, config.r1_interval, autocast

    def critic_loss(
        self, critic: nn.Module, reals: Tensor, fake_scores: Tensor, fakes: Tensor, *, step: int, pixel_size: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `Adversarial`."""
        with_r1 = step % self._interval == 0 and self._gamma > 0
        reals = reals.requires_grad_(with_r1)
        with contextlib.nullcontext() if with_r1 else self._autocast():  # R1 differentiates twice: in float32
            real_scores = critic(reals).float()
        loss = losses.critic_loss(real_scores, fake_scores)
        figures = {"score_margin": real_scores.mean() - fake_scores.mean()}
        if not with_r1:
            return loss, loss.new_zeros(()), figures
        r1 = losses.r1_penalty(real_scores, reals) / pixel_size**2
        return loss, self._gamma * self._interval * r1, figures | {"r1": r1}

    def generator_loss(self, fake_scores: Tensor) -> Tensor:
        """As `Adversarial`."""
        return losses.generator_loss(fake_scores)


class WassersteinGP:
    """Wasserstein loss with gradient penalty and drift, at every step."""

    largest_loss = 1e6  # an image's distance from black is at most 2 sqrt(C H W): some hundreds

    def __init__(self, config: TrainingConfig, autocast: Autocast, rng: torch.Generator) -> None:
        self._gradient_weight, self._drift_weight = config.gradient_weight, config.drift_weight
        self._autocast, self._rng = autocast, rng

    def critic_loss(
        self, critic: nn.Module, reals: Tensor, fake_scores: Tensor, fakes: Tensor, *, step: int, pixel_size: float
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """As `Adversarial`."""
        with self._autocast():
            real_scores = critic(reals).float()
        loss = wasserstein.critic_loss(real_scores, fake_scores)
        penalty = wasserstein.gradient_penalty(critic, reals, fakes, pixel_size=pixel_size, rng=self._rng)
        drift = wasserstein.drift(real_scores)
        figures = {"score_margin": -loss, "gradient_penalty": penalty, "drift": drift}
        return loss, self._gradient_weight * penalty + self._drift_weight * drift, figures

    def generator_loss(self, fake_scores: Tensor) -> Tensor:
        """As `Adversarial`."""
        return wasserstein.generator_loss(fake_scores)


def make_adversarial(config: TrainingConfig, autocast: Autocast, rng: torch.Generator) -> Adversarial:
    """The loss that the configuration names.

    Args:
        autocast: context of the passes that need no second derivative.
        rng: random numbers of the gradient penalty.
    """
    return Logistic(config, autocast) if config.loss == "logistic" else WassersteinGP(config, autocast, rng)
