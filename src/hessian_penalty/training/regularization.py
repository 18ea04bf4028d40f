"""The penalty that a run's configuration asks for."""

from torch import Tensor, nn
from torch.func import functional_call

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.penalty import HessianPenalty, OroJaR
from hessian_penalty.penalty.layers import match_layers
from hessian_penalty.penalty.regularizer import Regularizer
from hessian_penalty.training.config import PenaltyConfig


class AtAverage(nn.Module):
    r"""A generator at the weights of its moving average, through which a gradient reaches its own.

    $G(z; \bar\theta + \theta - \mathrm{sg}(\theta))$, with sg the stopped gradient: value and gradient are those at
    $\bar\theta$, and the gradient lands in $\theta$. Its modules have the generator's names.

    Args:
        generator: with the weights $\theta$.
        average: with the weights $\bar\theta$.
    """

    def __init__(self, generator: ProGANGenerator, average: ProGANGenerator) -> None:
        super().__init__()
        for name, module in generator.named_children():
            self.add_module(name, module)
        self._pair = (generator, average)  # a tuple, since a module would be registered once more

    def forward(self, z: Tensor) -> Tensor:
        """Images at the average's weights."""
        generator, average = self._pair
        weights = dict(average.named_parameters())
        shifted = {name: weights[name] + (own - own.detach()) for name, own in generator.named_parameters()}
        images: Tensor = functional_call(generator, shifted, (z,))
        return images


def make_penalty(config: PenaltyConfig, generator: ProGANGenerator, average: ProGANGenerator) -> Regularizer | None:
    """The regulariser that the configuration asks for; None for a vanilla run.

    Args:
        config: the penalty.
        generator: what is trained.
        average: its moving average.

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
            AtAverage(generator, average) if config.of_average else generator,
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
