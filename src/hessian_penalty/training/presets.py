"""The experiments of the Hessian Penalty paper, at their published size and in a form that two cores finish.

Published values: Peebles et al., ECCV 2020, and the authors' training scripts (WGAN-GP, 50,000 kimg, batches for four
GPUs); OroJaR's weights: Wei et al., ICCV 2021, and theirs.
"""

from dataclasses import dataclass, replace
from typing import Literal

from hessian_penalty.generators.progan import ProGANConfig, published_channels
from hessian_penalty.training.config import GrowthConfig, InfoGANConfig, PenaltyConfig, TrainingConfig

Method = Literal["vanilla", "infogan", "orojar", "hessian", "published"]


@dataclass(frozen=True)
class Preset:
    """One experiment.

    Args:
        data: the command that makes its data set.
        vanilla: the run without a penalty.
        hessian: the Hessian Penalty from scratch.
        published: the Hessian Penalty with the paper's weight, layers and maximum; `hessian` but for tiny presets.
        orojar: Orthogonal Jacobian Regularization.
        factors: latents that InfoGAN infers.
        ramp_kimg: in which the penalty of a fine-tuning grows to its weight.
        study_kimg: thousands of images that each model of a study sees.
    """

    data: str
    vanilla: TrainingConfig
    hessian: PenaltyConfig
    published: PenaltyConfig
    orojar: PenaltyConfig
    factors: int
    ramp_kimg: float
    study_kimg: float

    def training(self, method: Method, *, finetune: bool = False) -> TrainingConfig:
        """The run by one of the methods; a fine-tuning ramps the penalty in."""
        if method == "vanilla":
            return self.vanilla
        if method == "infogan":
            return replace(self.vanilla, infogan=InfoGANConfig(weight=1.0, latents=self.factors))
        penalty = {"hessian": self.hessian, "published": self.published, "orojar": self.orojar}[method]
        return replace(self.vanilla, penalty=replace(penalty, ramp_kimg=self.ramp_kimg) if finetune else penalty)


_LAYERS = ("blocks.[0-4].norm?",)  # layers 1 to 10 of 13

_PUBLISHED = TrainingConfig(
    generator=ProGANConfig(latent_dim=12, channels=published_channels(128), grows=True, fused_scale=True),
    growth=GrowthConfig(batch_sizes=(2048, 1024, 512, 256, 128, 96)),
    total_kimg=50_000.0,
    batch_size=96,
    learning_rate=1e-3,
    loss="wgan-gp",
    ema_half_life_kimg=10.0,
    log_kimg=50.0,
    snapshot_kimg=500.0,
)


def _published(data: str, *, factors: int, weight: float = 0.1, orojar: float, latent_dim: int = 12) -> Preset:
    penalty = PenaltyConfig(weight=weight, layers=_LAYERS)
    return Preset(
        data,
        replace(_PUBLISHED, generator=replace(_PUBLISHED.generator, latent_dim=latent_dim)),
        hessian=penalty,
        published=penalty,
        orojar=PenaltyConfig(form="orojar", weight=orojar, layers=_LAYERS),
        factors=factors,
        ramp_kimg=10_000.0,
        study_kimg=_PUBLISHED.total_kimg,
    )


_TINY = TrainingConfig(generator=ProGANConfig(latent_dim=12, channels=(96, 64, 32, 16)))
_TINY_LAYERS = ("blocks.[0-2].norm?",)  # all but the last resolution's, as published
_TINY_PENALTY = PenaltyConfig(adaptive=0.02, reduction="mean", scale_free=True, ramp_kimg=4.0)


def _tiny(published: Preset, data: str, training: TrainingConfig, *, study_kimg: float = 64.0) -> Preset:
    return replace(
        published,
        data=data,
        vanilla=training,
        hessian=_TINY_PENALTY,
        published=replace(published.hessian, layers=_TINY_LAYERS),
        orojar=replace(_TINY_PENALTY, form="orojar"),
        ramp_kimg=_TINY_PENALTY.ramp_kimg,
        study_kimg=study_kimg,
    )


_RENDER = "hessian-penalty render {} --size {}"
_PAIRS = "hessian-penalty import edges2shoes.tar.gz --kind pairs --size {}"

_SIMPLE = _published(_RENDER.format("clevr-simple", 128), factors=4, orojar=1e-6)
_COMPLEX = _published(_RENDER.format("clevr-complex", 128), factors=10, orojar=1e-5)
_U = _published(_RENDER.format("clevr-simple", 128), factors=3, weight=0.025, orojar=1e-5, latent_dim=3)
_1FOV = _published(_RENDER.format("clevr-1fov", 128), factors=1, weight=0.025, orojar=1e-4)
_SHOES = _published(_PAIRS.format(128), factors=12, orojar=1e-5)

PRESETS: dict[str, Preset] = {
    "clevr-simple-tiny": _tiny(_SIMPLE, _RENDER.format("clevr-simple", 32), _TINY),
    "clevr-complex-tiny": _tiny(
        _COMPLEX, _RENDER.format("clevr-complex", 32), replace(_TINY, total_kimg=160.0), study_kimg=96.0
    ),
    "clevr-u-tiny": _tiny(
        _U,
        _RENDER.format("clevr-simple", 32),
        replace(_TINY, generator=replace(_TINY.generator, latent_dim=3, normalize_latent=False)),
    ),
    "clevr-1fov-tiny": _tiny(_1FOV, _RENDER.format("clevr-1fov", 32), replace(_TINY, total_kimg=40.0), study_kimg=32.0),
    "edges-and-shoes-tiny": _tiny(_SHOES, _PAIRS.format(32), replace(_TINY, total_kimg=160.0), study_kimg=96.0),
    "clevr-simple": _SIMPLE,
    "clevr-complex": _COMPLEX,
    "clevr-u": _U,
    "clevr-1fov": _1FOV,
    "edges-and-shoes": _SHOES,
}
