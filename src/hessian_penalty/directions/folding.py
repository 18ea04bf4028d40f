"""Give a generator latents along directions, at no cost: the directions folded into the layer that reads them."""

import copy
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.directions.first_layers import LatentLayer, latent_layers, unwrapped
from hessian_penalty.directions.method import Space, require_conditions
from hessian_penalty.directions.rotated_generator import RotatedGenerator, generator_of, in_precision_of
from hessian_penalty.generators.equalized import EqualizedLinear
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.replay import Replay

AnyGenerator = TypeVar("AnyGenerator", bound=Callable[..., Any])

SAMPLES = 4  # latents at which a folded copy is compared
RESCALED = 1e-6  # what the small number inside a normalisation may do, where its scale is not kept anyway
ROUNDING = 1000  # what a deep network makes of rounded weights, in units of the machine epsilon


def fold_weight(weight: Float[Tensor, "out latent"], matrix: Float[Tensor, "rows latent"]) -> Float[Tensor, "out rows"]:
    r"""The first layer's weight for new latents w, where :math:`z = \sum_i w_i d_i = D^T w`: :math:`W' = W D^T`."""
    return (weight.double() @ matrix.double().T.to(weight.device)).to(weight.dtype)


def fold_second_moment(
    moment: Float[Tensor, "out latent"], matrix: Float[Tensor, "rows latent"]
) -> Float[Tensor, "out rows"]:
    r"""Adam's running mean square of the gradient in the new coordinates, taking the old components as uncorrelated.

    :math:`E[(\sum_j D_{ij} g_j)^2] \approx \sum_j D_{ij}^2 E[g_j^2]`.
    """
    return (moment.double() @ matrix.double().square().T.to(moment.device)).to(moment.dtype)


@torch.no_grad()
def generator_along(
    G: AnyGenerator, matrix: Float[Tensor, "rows latent"], conditions: Mapping[str, Any], *, exact: bool = True
) -> AnyGenerator | RotatedGenerator:
    r"""G' with :math:`G'(w) = G(w D)` for orthonormal rows D.

    Where exactly one layer reads z, a copy of G with :math:`W' = W D^T` there, compared with G at a few latents to
    rounding. It draws w as G does z, which is the same where a rotation leaves
    the distribution of z alone. Behind a normalisation of z over n components, which in the copy is one of w
    over its m, the weight is multiplied by the ratio of both, :math:`\sqrt{n/m}`, unless `exact` is off: then each
    component that is left keeps the spread that it had in G. In every other case, and where a copy does not come out
    equal, a `RotatedGenerator`.

    Raises:
        UserError: D does not fit G, G takes no such condition, or cannot be evaluated.

    >>> G = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
    >>> type(generator_along(G, torch.tensor([[0.6, 0.8]]), {})[0])
    <class 'torch.nn.modules.linear.Linear'>
    """
    generator = generator_of(G, matrix)
    require_conditions(generator, conditions)
    space = Space(generator, torch.eye(generator.latent_dim, dtype=torch.float64), conditions)
    z, drawn = space.sample(SAMPLES, torch.Generator().manual_seed(0))
    z = in_precision_of(generator, z)
    w = z @ matrix.to(z).T
    layers = latent_layers(generator, w @ matrix.to(z), **drawn)
    if len(layers) == 1 and layers[0].axis is not None and isinstance(unwrapped(G), nn.Module):
        with suppress(Exception):  # whether a module can be copied, and its latents changed, is up to its class
            folded = _folded(G, matrix, layers[0], w, drawn)
            rescaled = layers[0].scaled and not exact
            if _is_along(folded, generator, matrix, w, drawn, RESCALED if rescaled else 0.0):
                return folded if exact else _folded(G, matrix, layers[0], w, drawn, exact=False)
    return RotatedGenerator(G, matrix)


def _folded(
    G: AnyGenerator, matrix: Tensor, layer: LatentLayer, w: Tensor, conditions: Mapping[str, Any], exact: bool = True
) -> AnyGenerator:
    """A copy of G with the matrix in the layer's weight."""
    rows, columns = matrix.shape
    memo: dict[int, Any] = {}
    folded: Any = copy.deepcopy(unwrapped(G), memo)
    reader = memo[id(layer.module)]
    _change_weight(reader, layer, columns, partial(fold_weight, matrix=matrix))
    if rows < columns:
        _resize(folded, reader, rows, columns)
        if layer.scaled and exact:
            (new,) = latent_layers(folded, w, **conditions)
            _change_weight(reader, new, rows, partial(torch.mul, (layer.factors / new.factors).mean().item()))
    if isinstance(G, FunctionGenerator):
        folded = FunctionGenerator(folded, rows, RotatedGenerator(G, matrix).sample_latents)
    return cast(AnyGenerator, folded)


def _change_weight(reader: Any, layer: LatentLayer, width: int, change: Callable[[Tensor], Tensor]) -> None:
    """Change the part of a layer's weight that the latent meets."""
    assert layer.axis is not None  # as asked before
    columns = reader.weight.detach().movedim(layer.axis, -1)
    before, latent, after = columns.tensor_split([layer.start, layer.start + width], dim=-1)
    changed = change(latent.flatten(0, -2)).unflatten(0, latent.shape[:-1])
    weight = torch.cat([before, changed, after], dim=-1).movedim(-1, layer.axis).contiguous()
    if isinstance(reader._parameters.get("weight"), nn.Parameter):
        reader.weight.data = weight  # stays the same parameter, wherever it is used
    else:
        reader.weight = weight  # a parametrization finds what stands for it


def _resize(folded: Any, reader: Any, rows: int, columns: int) -> None:
    """Write the number of latents where modules keep it, so that the copy can be saved and made anew."""
    for name in ("in_features", "in_channels"):
        if hasattr(reader, name):
            setattr(reader, name, getattr(reader, name) - columns + rows)
    if isinstance(reader, EqualizedLinear):
        width = reader.weight.shape[1]
        growth = ((width - rows + columns) / width) ** 0.5  # of a scale that follows the number of inputs
        reader.scale *= growth
        reader.weight.data /= growth
    if hasattr(folded, "latent_dim"):
        folded.latent_dim = rows
    if hasattr(getattr(folded, "config", None), "latent_dim"):
        folded.config = replace(folded.config, latent_dim=rows)


def _is_along(
    folded: Any, G: Callable[..., Any], matrix: Tensor, w: Tensor, conditions: Mapping[str, Any], tolerance: float
) -> bool:
    """Compare images, and how many latents are drawn."""
    outputs: list[Tensor] = []
    expected: list[Tensor] = []
    with full_precision(w.device.type):
        for generator, points, found in ((folded, w, outputs), (G, w @ matrix.to(w), expected)):
            start = Replay(generator, conditions, w.device).state()  # given one, a pass does not move random numbers on
            found.extend(*Passes(Evaluator(generator), points, conditions, start).at(points[None]))
    rows = matrix.double()
    skew = float((rows @ rows.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).abs().max())
    for new, old in zip(outputs, expected, strict=True):
        allowed = (max(tolerance, ROUNDING * torch.finfo(old.dtype).eps) + 10 * skew) * float(old.abs().max())
        if not float((new - old).abs().max()) <= allowed:
            return False
    draws = getattr(folded, "sample_latents", None)
    return draws is None or draws(1, torch.Generator().manual_seed(0)).shape[1] == len(rows)
