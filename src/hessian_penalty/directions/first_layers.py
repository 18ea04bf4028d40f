"""Find the layers of a generator that read its latents."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.equalized import EqualizedLinear
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.reachable import reachable
from hessian_penalty.penalty.replay import Replay

ROUNDING = 16  # of a normalisation, in units of the machine epsilon


@dataclass(frozen=True)
class LatentLayer:
    """A module whose input is the latent, or holds it among other features.

    Attributes:
        name: in the generator; the class of the outermost module comes first where the generator is no module itself.
        module: the layer; one that has `latent_weights()` stands for all layers inside it.
        weight: what the latent is multiplied by, one row an output (and kernel position); as used at run time for the
            package's equalised layer, else the module's `weight`.
        axis: dimension of the module's `weight` that runs over input features; None with `latent_weights()`.
        start: number of the feature that is latent component 0: not 0 where something comes before it.
        factors: the input's part that is the latent, divided by it; all 1 unless it is normalised.
    """

    name: str
    module: nn.Module
    weight: Float[Tensor, "out latent"]
    axis: int | None
    start: int
    factors: Float[Tensor, " batch"]

    @property
    def scaled(self) -> bool:
        """Whether the layer gets z times a positive factor that depends on z."""
        return bool((self.factors != 1).any())


def unwrapped(G: Any) -> Any:
    """Return the module or function that a generator is, without what adapts or compiles it."""
    function = Evaluator(G.function if isinstance(G, FunctionGenerator) else G).G
    return getattr(function, "_orig_mod", function)


@torch.no_grad()
def latent_layers(G: Callable[..., Any], z: Float[Tensor, "batch latent"], **conditions: Any) -> list[LatentLayer]:
    r"""The modules that read z in one pass of G, in the order in which they run.

    A module counts if it has a `weight` of two dimensions or more (a dense layer, or a convolution, transposed or not,
    of a latent that was reshaped to one pixel), and its input holds consecutive features that equal z, or
    :math:`f(z)\,z` with a factor f > 0 for each sample, as latent normalisation makes. Weights are taken as stored with
    the input features second, or first for transposed convolutions. A module that has a method `latent_weights() ->
    (out, latent)` counts if its input is z. The pass leaves no trace in G.

    Modules are found in G and in what a function holds. Arithmetic on z that no module does (`z @ matrix`) is not seen,
    nor are layers that read a part of z.

    Args:
        G: the generator.
        z: a few random latents.
        conditions: further arguments of G.

    Raises:
        UserError: G cannot be evaluated, or `latent_weights()` has another number of columns than z.

    >>> G = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [(layer.name, tuple(layer.weight.shape)) for layer in latent_layers(G, torch.randn(2, 3))]
    [('0', (8, 3))]
    """
    function = unwrapped(G)
    found: dict[nn.Module, LatentLayer] = {}
    names = _names(function)
    inside = {part for module in names if hasattr(module, "latent_weights") for part in module.modules()}
    handles = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if module not in found and inputs is not None and inputs.is_floating_point():
            layer = _read_by(module, names[module], inputs.detach(), z)
            if layer is not None:
                found[module] = layer

    for module in names:
        if hasattr(module, "latent_weights") or module not in inside:
            handles.append(module.register_forward_pre_hook(look, with_kwargs=True))
    try:
        with full_precision(z.device.type):
            start = Replay(function, conditions, z.device).state()  # given one, a pass does not move random numbers on
            for _ in Passes(Evaluator(function), z, conditions, start).at(z[None]):
                pass
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def _names(function: Any) -> dict[nn.Module, str]:
    """Every module that a function is or holds, with its name there."""
    names: dict[nn.Module, str] = {}
    for root in reachable(function)[0]:
        if root not in names and not isinstance(root, torch.jit.ScriptModule):  # which takes no hooks
            kind = type(root).__name__
            for name, module in root.named_modules():
                parts = (name,) if name and root is function else (kind, name) if name else (kind,)
                names.setdefault(module, ".".join(parts))
    return names


def _read_by(module: nn.Module, name: str, inputs: Tensor, z: Tensor) -> LatentLayer | None:
    """The module as a layer that reads z, if its input holds it."""
    if inputs.shape[0] != z.shape[0]:
        return None
    features = inputs.flatten(1)
    if hasattr(module, "latent_weights"):
        factors = None if features.shape != z.shape else _factors(features, z)
        return (
            None if factors is None else LatentLayer(name, module, latent_weights(module, z.shape[1]), None, 0, factors)
        )
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2 or getattr(module, "groups", 1) != 1:
        return None
    if features.shape[1] != inputs.shape[1 if weight.ndim > 2 else -1]:
        return None  # several pixels
    axis = _input_axis(module, weight, features.shape[1])
    width = z.shape[1]
    if axis is None or features.shape[1] < width:
        return None
    for start in range(features.shape[1] - width + 1):
        factors = _factors(features[:, start : start + width], z)
        if factors is not None:
            scale = module.scale if isinstance(module, EqualizedLinear) else 1.0
            rows = scale * weight.detach().movedim(axis, -1).flatten(0, -2)[:, start : start + width]
            return LatentLayer(name, module, rows, axis, start, factors)
    return None


def latent_weights(G: Any, latent_dim: int) -> Float[Tensor, "out latent"]:
    """Return what a generator itself says that its latents are multiplied by.

    Raises:
        UserError: it is no matrix with a column for each latent component.
    """
    weight = G.latent_weights()
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != latent_dim:
        came = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise UserError(
            f"`latent_weights()` of {type(G).__name__} must return a matrix with {latent_dim} columns, one for each "
            f"latent component, got {came}."
        )
    return weight.detach()


def _input_axis(module: nn.Module, weight: Tensor, width: int) -> int | None:
    axes = (0,) if getattr(module, "transposed", False) else (1, 0)
    return next((axis for axis in axes if weight.shape[axis] == width), None)


def _factors(features: Tensor, z: Tensor) -> Tensor | None:
    """The positive factor of each row by which features are z, if they are."""
    x, y = features.double(), z.to(features.device).double()
    if torch.equal(x, y.to(features.dtype).double()):
        return torch.ones_like(x[:, 0])
    factors = (x * y).sum(dim=1) / y.square().sum(dim=1)
    rest = (x - factors[:, None] * y).norm(dim=1)
    allowed = ROUNDING * torch.finfo(features.dtype).eps * x.norm(dim=1)
    return factors if bool(((factors > 0) & (rest <= allowed)).all()) else None
