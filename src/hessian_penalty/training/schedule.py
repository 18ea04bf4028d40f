"""What changes while a generator grows: level of detail, resolution, batch size and learning rate."""

from dataclasses import dataclass

from hessian_penalty.training.config import GrowthConfig, TrainingConfig


@dataclass(frozen=True)
class Phase:
    """Settings of one step.

    Args:
        lod: level of detail: 0 fully grown; one more for each halving of the resolution.
        resolution: pixels of the images.
        batch_size: images.
        learning_rate: Adam's.
    """

    lod: float
    resolution: int
    batch_size: int
    learning_rate: float


def level_of_detail(growth: GrowthConfig, resolution: int, kimg: float) -> float:
    r"""Level of detail after `kimg` thousand images of a growth to `resolution` pixels.

    With s and f the stable and fading kimg, :math:`l_0 = \log_2(R / R_0)` at the start and p = ⌊kimg / (s + f)⌋,
    :math:`l = \max(l_0 - p - \max(kimg - p (s + f) - s, 0) / f, 0)`. Rounded to multiples of 2⁻¹⁶, which single
    precision holds exactly: the same number in every network and checkpoint.

    >>> growth = GrowthConfig(stable_kimg=10.0, fade_kimg=20.0)
    >>> [level_of_detail(growth, 16, kimg) for kimg in (0.0, 10.0, 15.0, 30.0, 50.0, 60.0, 900.0)]
    [2.0, 2.0, 1.75, 1.0, 0.5, 0.0, 0.0]
    """
    first = resolution.bit_length() - growth.first_resolution.bit_length()
    length = growth.stable_kimg + growth.fade_kimg
    done = int(kimg // length)
    fading = max(kimg - done * length - growth.stable_kimg, 0.0) / growth.fade_kimg if growth.fade_kimg else 0.0
    return round(max(first - done - fading, 0.0) * 2**16) / 2**16


def phase_at(config: TrainingConfig, kimg: float) -> Phase:
    """The settings of the step that begins after `kimg` thousand images.

    >>> from hessian_penalty.generators.progan import ProGANConfig
    >>> growth = GrowthConfig(stable_kimg=10.0, fade_kimg=20.0, batch_sizes=(64, 32, 16))
    >>> phase_at(TrainingConfig(ProGANConfig(channels=(8, 8, 8), grows=True), growth=growth), 40.0)
    Phase(lod=1.0, resolution=8, batch_size=32, learning_rate=0.002)
    """
    generator, growth = config.generator, config.growth
    lod = level_of_detail(growth, generator.resolution, kimg) if generator.grows else 0.0
    block = len(generator.channels) - 1 - int(lod)
    return Phase(
        lod=lod,
        resolution=generator.resolution >> int(lod),
        batch_size=growth.batch_sizes[block] if generator.grows and growth.batch_sizes else config.batch_size,
        learning_rate=(
            growth.learning_rates[block] if generator.grows and growth.learning_rates else config.learning_rate
        ),
    )
