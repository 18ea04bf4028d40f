"""What a training run is made of: every field is a flag of `hessian-penalty train` and a line of config.json."""

from dataclasses import dataclass, field

from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.generators.progan import ProGANConfig
from hessian_penalty.penalty.settings import PenaltySettings

SMALLEST = 1e-6  # for settings that must be positive
SMALLEST_IMAGE = 4  # pixels


def _check_choice(name: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise UserError(f"{name} must be {' or '.join(choices)}, got {value!r}.")


@dataclass(frozen=True)
class PenaltyConfig:
    """The Hessian Penalty in training; off (vanilla) while `weight` and `adaptive` are 0.

    Args:
        form: "hessian", or "orojar" for Orthogonal Jacobian Regularization, with the same settings.
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
        of_average: penalise the moving average of the generator, which is what a run keeps, instead of the generator
            of the moment; the gradient there moves the generator.
    """

    form: str = "hessian"
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
    of_average: bool = False

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
        _check_choice("penalty.reduction", self.reduction, "max", "mean")
        _check_choice("penalty.form", self.form, "hessian", "orojar")

    @property
    def enabled(self) -> bool:
        """Whether the run is anything but vanilla."""
        return self.weight > 0 or self.adaptive > 0


@dataclass(frozen=True)
class GrowthConfig:
    """Progressive growth of a generator that `grows`: when each resolution comes in.

    At every resolution but the last, `stable_kimg` are followed by `fade_kimg` in which the next one fades in.

    Args:
        first_resolution: pixels of the first images.
        stable_kimg: thousands of images between two growths.
        fade_kimg: thousands of images in which a resolution fades in.
        batch_sizes: images a step at 4, 8, … pixels, as many as `generator.channels`; empty: `batch_size` at all.
        learning_rates: likewise; empty: `learning_rate` at all.

    Source: Karras et al., ICLR 2018; 600 and 600 kimg from 4 pixels.
    """

    first_resolution: int = SMALLEST_IMAGE
    stable_kimg: float = 600.0
    fade_kimg: float = 600.0
    batch_sizes: tuple[int, ...] = ()
    learning_rates: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        first = self.first_resolution
        if first < SMALLEST_IMAGE or first & (first - 1):
            raise UserError(f"growth.first_resolution must be a power of two from {SMALLEST_IMAGE}, got {first}.")
        check_number("growth.stable_kimg", self.stable_kimg, SMALLEST)
        check_number("growth.fade_kimg", self.fade_kimg, 0)
        for size in self.batch_sizes:
            check_number("growth.batch_sizes", size, 1)
        for rate in self.learning_rates:
            check_number("growth.learning_rates", rate, SMALLEST)

    def end_kimg(self, resolution: int) -> float:
        """Thousands of images after which `resolution` is complete.

        >>> GrowthConfig().end_kimg(128)
        6000.0
        """
        growths = resolution.bit_length() - self.first_resolution.bit_length()
        return growths * (self.stable_kimg + self.fade_kimg)


@dataclass(frozen=True)
class InfoGANConfig:
    """InfoGAN's term: a head of the critic infers latents from images, and the generator helps it.

    Args:
        weight: λ of the squared error, in both networks' losses; 0 for none. Published with ProGAN: 1.
        latents: how many latents it infers, the first ones.

    Source: Chen et al., "InfoGAN", NeurIPS 2016.
    """

    weight: float = 0.0
    latents: int = 0

    def __post_init__(self) -> None:
        check_number("infogan.weight", self.weight, 0)
        check_number("infogan.latents", self.latents, 0)
        if (self.weight > 0) != (self.latents > 0):
            raise UserError(
                f"infogan.weight ({self.weight:g}) and infogan.latents ({self.latents}) go together: set both, or none."
            )


@dataclass(frozen=True)
class TrainingConfig:
    """A whole run: networks, loss, schedule, penalty.

    Args:
        generator: the ProGAN's size; the critic mirrors it.
        penalty: the Hessian Penalty.
        growth: schedule of progressive growth, where `generator.grows`.
        infogan: InfoGAN's term.
        total_kimg: thousands of real images shown to the critic.
        batch_size: images a step.
        learning_rate: Adam's, for generator and critic.
        adam_beta2: Adam's second decay; the first is 0, as published.
        loss: "logistic" (non-saturating, with R1) or "wgan-gp" (with gradient penalty and drift, as published).
        r1_gamma: weight γ of the R1 gradient penalty at real images.
        r1_interval: steps between two R1 terms; the term is multiplied by it.
        gradient_weight: weight of WGAN-GP's gradient penalty.
        drift_weight: weight of WGAN-GP's squared scores of real images, which keep them from drifting.
        ema_half_life_kimg: half-life of the generator's moving average, whose images are the run's result.
        log_kimg: thousands of images between two records in metrics.jsonl.
        snapshot_kimg: thousands of images between two checkpoints, with samples and traversals.
        keep_checkpoints: newest checkpoints kept.
        seed: of weights, data order, latents and probes.
    """

    generator: ProGANConfig = field(default_factory=ProGANConfig)
    penalty: PenaltyConfig = field(default_factory=PenaltyConfig)
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    infogan: InfoGANConfig = field(default_factory=InfoGANConfig)
    total_kimg: float = 120.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    adam_beta2: float = 0.99
    loss: str = "logistic"
    r1_gamma: float = 1.0
    r1_interval: int = 8
    gradient_weight: float = 10.0
    drift_weight: float = 1e-3
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
        for name in ("r1_gamma", "gradient_weight", "drift_weight"):
            check_number(name, getattr(self, name), 0)
        check_number("seed", self.seed, 0, LARGEST_SEED)
        _check_choice("loss", self.loss, "logistic", "wgan-gp")
        batch_size = min((self.batch_size, *self.growth.batch_sizes))
        if self.penalty.enabled and self.penalty.scale_free and batch_size < 2:
            raise UserError("penalty.scale_free takes a variance over the batch: batch_size must be at least 2, got 1.")
        if self.infogan.latents > self.generator.latent_dim:
            raise UserError(
                f"infogan.latents must be at most generator.latent_dim ({self.generator.latent_dim}), got "
                f"{self.infogan.latents}."
            )
        if self.generator.grows:
            self._check_growth()

    def _check_growth(self) -> None:
        if self.growth.first_resolution > self.generator.resolution:
            raise UserError(
                f"growth.first_resolution ({self.growth.first_resolution}) is more than the generator's "
                f"{self.generator.resolution} pixels."
            )
        end_kimg = self.growth.end_kimg(self.generator.resolution)
        if self.total_kimg <= end_kimg:
            raise UserError(
                f"total_kimg ({self.total_kimg:g}) must be more than the {end_kimg:g} kimg in which the generator "
                "grows: raise it, or lower growth.stable_kimg and growth.fade_kimg."
            )
        levels = len(self.generator.channels)
        for name in ("batch_sizes", "learning_rates"):
            given = len(getattr(self.growth, name))
            if given not in (0, levels):
                raise UserError(
                    f"growth.{name} must name one value for each of the {levels} resolutions of generator.channels, "
                    f"or none; got {given}."
                )
