"""What a training run is made of: every field is a flag of `hessian-penalty train` and a line of config.json."""

from dataclasses import dataclass, field

from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.generators.progan import ProGANConfig
from hessian_penalty.penalty.settings import PenaltySettings

SMALLEST = 1e-6  # for settings that must be positive


@dataclass(frozen=True)
class PenaltyConfig:
    """The Hessian Penalty in training; off (vanilla) while `weight` and `adaptive` are 0.

    Args:
        weight: λ, the fixed weight of L_H.
        adaptive: hold the penalty's gradient at this fraction of the main loss's instead, 0.1 for 10%.
        layers: penalised activations by glob over the generator's module names, "blocks.*.norm?"; empty: the images.
        reduction: over batch and elements, "max" as published or "mean".
        scale_free: divide each layer's penalty by its variance over the batch, so that shrinking gains nothing.
        k: probes, at least 2.
        epsilon: step of the second difference.
        start_kimg: thousands of images before the penalty begins.
        ramp_kimg: thousands of images over which it grows to its full weight, linearly.
        interval: steps between two penalties; the term is multiplied by it.
    """

    weight: float = 0.0
    adaptive: float = 0.0
    layers: tuple[str, ...] = ()
    reduction: str = str(PenaltySettings.reduction)
    scale_free: bool = PenaltySettings.scale_free
    k: int = PenaltySettings.k
    epsilon: float = PenaltySettings.epsilon
    start_kimg: float = 0.0
    ramp_kimg: float = 0.0
    interval: int = 1

    def __post_init__(self) -> None:
        for name in ("weight", "adaptive", "start_kimg", "ramp_kimg"):
            check_number(f"penalty.{name}", getattr(self, name), 0)
        check_number("penalty.k", self.k, 2)
        check_number("penalty.epsilon", self.epsilon, SMALLEST)
        check_number("penalty.interval", self.interval, 1)
        if self.weight and self.adaptive:
            raise UserError(
                f"penalty.weight ({self.weight:g}) and penalty.adaptive ({self.adaptive:g}) exclude each other: "
                "set one to 0."
            )
        if self.reduction not in ("max", "mean"):
            raise UserError(f'penalty.reduction must be "max" or "mean", got {self.reduction!r}.')

    @property
    def enabled(self) -> bool:
        """Whether the run is anything but vanilla."""
        return self.weight > 0 or self.adaptive > 0


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run: networks, loss, schedule, penalty.

    Args:
        generator: the ProGAN's size; the critic mirrors it.
        penalty: the Hessian Penalty.
        total_kimg: thousands of real images shown to the critic.
        batch_size: images a step.
        learning_rate: Adam's, for generator and critic.
        adam_beta2: Adam's second decay; the first is 0, as published.
        r1_gamma: weight γ of the R1 gradient penalty at real images.
        r1_interval: steps between two R1 terms; the term is multiplied by it.
        ema_half_life_kimg: half-life of the generator's moving average, whose images are the run's result.
        log_kimg: thousands of images between two records in metrics.jsonl.
        snapshot_kimg: thousands of images between two checkpoints, with samples and traversals.
        keep_checkpoints: newest checkpoints kept.
        seed: of weights, data order, latents and probes.
    """

    generator: ProGANConfig = field(default_factory=ProGANConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    total_kimg: float = 120.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    adam_beta2: float = 0.99
    r1_gamma: float = 1.0
    r1_interval: int = 8
    ema_half_life_kimg: float = 2.5
    log_kimg: float = 1.0
    snapshot_kimg: float = 10.0
    keep_checkpoints: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("total_kimg", "learning_rate", "ema_half_life_kimg", "log_kimg", "snapshot_kimg"):
            check_number(name, getattr(self, name), SMALLEST)
        for name in ("batch_size", "r1_interval", "keep_checkpoints"):
            check_number(name, getattr(self, name), 1)
        check_number("adam_beta2", self.adam_beta2, 0, 1 - SMALLEST)
        check_number("r1_gamma", self.r1_gamma, 0)
        check_number("seed", self.seed, 0, LARGEST_SEED)
        if self.penalty.enabled and self.penalty.scale_free and self.batch_size < 2:
            raise UserError("penalty.scale_free takes a variance over the batch: batch_size must be at least 2, got 1.")


_TINY_NETWORK = ProGANConfig(latent_dim=12, channels=(96, 64, 32, 16))

PRESETS: dict[str, TrainingConfig] = {
    "clevr-simple-tiny": TrainingConfig(generator=_TINY_NETWORK),
    "clevr-1fov-tiny": TrainingConfig(generator=_TINY_NETWORK, total_kimg=40.0),
}
