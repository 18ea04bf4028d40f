"""The penalty that a run's configuration asks for."""

from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.penalty import HessianPenalty, OroJaR
from hessian_penalty.penalty.layers import match_layers
from hessian_penalty.penalty.regularizer import Regularizer
from hessian_penalty.training.config import PenaltyConfig


def make_penalty(config: PenaltyConfig, generator: ProGANGenerator) -> Regularizer | None:
    """The regulariser that the configuration asks for; None for a vanilla run.

    Raises:
        UserError: a layer glob matches nothing.
    """
    if not config.enabled:
        return None
    kind = OroJaR if config.form == "orojar" else HessianPenalty
    try:
        if config.layers:
            match_layers(generator, config.layers)
        return kind(
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


def has_grown_in(config: PenaltyConfig, generator: ProGANGenerator) -> bool:
    """Whether any of the penalised layers runs already, at the generator's level of detail."""
    if not config.layers or generator.lod == 0:
        return True
    layers = match_layers(generator, config.layers)
    return any(generator.fade_in(name) > 0 for name, layer in layers.items() if not isinstance(layer, nn.ModuleList))
