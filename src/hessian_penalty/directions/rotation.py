"""Rename a generator's latents to directions, at no loss: a rotation, folded into its first layer where it can be."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.folding import AnyGenerator, generator_along
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator

SAMPLES = 20_000
LARGEST_SCORE = 6.0
UNIFORM_KURTOSIS = 1.8


def require_rotation(matrix: Float[Tensor, "rows latent"]) -> None:
    """Refuse what is not a square orthonormal matrix: only a rotation leaves the distribution of N(0, I) as it is.

    Raises:
        UserError: not square, or rows not orthonormal.
    """
    rows, latent_dim = matrix.shape
    if rows != latent_dim:
        raise UserError(
            f"A rotation needs as many directions as latents ({latent_dim}), got {rows}; discover without `count`."
        )
    require_orthonormal(matrix)


def require_orthonormal(matrix: Float[Tensor, "rows latent"]) -> None:
    """Refuse rows that are not orthonormal.

    Raises:
        UserError: an entry of the Gram matrix is off by more than 1e-4, or is not a number.
    """
    identity = torch.eye(len(matrix), device=matrix.device, dtype=matrix.dtype)
    error = float((matrix @ matrix.T - identity).abs().max())
    if not error <= 1e-4:
        raise UserError(f"A rotation needs orthonormal directions; theirs differ from it by {error:.2g}.")


def rotate_generator(
    G: AnyGenerator, directions: Directions | Float[Tensor, "rows latent"], **conditions: Any
) -> AnyGenerator | RotatedGenerator:
    r"""G' with :math:`G'(w) = G(w D)`: latents are the given directions, images are the same.

    A copy of G, of the same class and with the same names of tensors, where one layer reads z, normalised or not (a
    rotation keeps the norm): the rotation is in its weight, :math:`W' = W D^T`. Images are compared at a few latents.
    In every other case a `RotatedGenerator` around G itself, which turns w in each pass. Equal up to rounding, and up
    to what the rows lack to be orthonormal if G normalises.

    The copy of a module with a sampler of its own draws w as G draws z. The copy of a `FunctionGenerator`, which gets
    its sampler from outside, and the wrapper draw z as G does and turn it, :math:`w = z D^T`. Both are the same for
    latents with a distribution that no rotation changes, as N(0, I); see `rotation_is_free`.

    Args:
        G: the generator, or any callable from latents to images.
        directions: D, orthonormal rows, as many as latents.
        conditions: further arguments of G, for the passes that are compared; "random" as in `discover`.

    Raises:
        UserError: `directions` is no rotation or does not fit G, or G cannot be evaluated.

    >>> G = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> D = torch.tensor([[0.6, 0.8], [-0.8, 0.6]])
    >>> rotated, w = rotate_generator(G, D), torch.randn(5, 2)
    >>> torch.allclose(rotated(w), G(w @ D), atol=1e-5)
    True
    """
    matrix = directions.matrix if isinstance(directions, Directions) else directions
    require_rotation(matrix)
    return generator_along(G, matrix, conditions)


@torch.no_grad()
def rotation_is_free(G: Generator, rng: torch.Generator) -> str | None:
    r"""Tell what is lost if the latents are turned and then drawn as before; None where it is nothing.

    A rotation leaves the distribution of images as it is if no rotation changes that of the latents, as N(0, I) or the
    uniform distribution on a sphere. Then a component has the moments of a projection :math:`x \cdot u` on a random
    unit vector u:

    .. math:: E[x_i] = 0, \quad E[x_i x_j] = \delta_{ij}\, E\,\lVert x \rVert^2 / n, \quad
              E[x_i^4] = \frac{3}{n (n + 2)}\, E\,\lVert x \rVert^4.

    Each is tested on 20,000 samples, by the mean over samples of what the two sides differ in, divided by its standard
    error. A score above 6 in any is a difference: with 512 latents there are 132,352 scores, and normal latents
    are refused by chance in less than 1 of 1,000 cases (a normal score exceeds 6 once in 5e8; fourth powers are skewed,
    which at this size makes it once in 5e6). Uniform latents have scores of dozens.

    Higher moments are not tested: a distribution that differs from a rotation-invariant one only there passes.

    Raises:
        UserError: G draws latents that are not finite.

    >>> from hessian_penalty.generators.function_generator import FunctionGenerator
    >>> rotation_is_free(FunctionGenerator(torch.sin, 3), torch.Generator().manual_seed(0)) is None
    True
    """
    x = G.sample_latents(SAMPLES, rng).cpu().double()
    if not bool(torch.isfinite(x).all()):
        raise UserError(f"`sample_latents` of {type(G).__name__} draws latents that are not finite; draw finite ones.")
    difference = _difference(x)
    if difference is None:
        return None
    return (
        f"The latents {difference}. So turned ones have another distribution: a rotated copy that draws its latents as "
        "before makes images that the generator does not make, and misses some that it does. Single images stay as "
        "they are, each at its turned latent."
    )


def _difference(x: Float[Tensor, "samples latent"]) -> str | None:
    """Say in which moments a sample differs from one that no rotation changes."""
    n = x.shape[1]
    squares = x.square()
    norms = squares.sum(dim=1, keepdim=True)
    if _differs(x):
        return f"have a mean that is not 0 (up to {float(x.mean(dim=0).abs().max()):.2g})"
    if n == 1:  # its only rotations are 1 and -1
        return None
    if _differs(squares - norms / n):
        low, high = squares.mean(dim=0).sqrt().aminmax()
        return f"differ in the size of components (root mean square from {float(low):.3g} to {float(high):.3g})"
    products, their_squares = x.T @ x / len(x), squares.T @ squares / len(x)
    if _score(products.fill_diagonal_(0), their_squares, len(x)) > LARGEST_SCORE:
        return "have correlated components"
    excess = squares.square() - norms.square() * (3 / (n * (n + 2)))
    if not _differs(torch.cat([excess, excess.mean(dim=1, keepdim=True)], dim=1)):
        return None
    kurtosis = float((squares.square().mean(dim=0) / squares.mean(dim=0).square()).mean())
    turned = float(norms.square().mean() * 3 * n / (n + 2) / norms.mean().square())
    if abs(kurtosis - UNIFORM_KURTOSIS) < 0.05:
        shape = "look uniform, so that turned ones lie in a rotated cube"
    else:
        shape = (
            f"have {'shorter' if kurtosis < turned else 'longer'} tails along components than along other directions"
        )
    return f"{shape} (kurtosis {kurtosis:.2f} of a component, {turned:.2f} of a random projection)"


def _differs(differences: Float[Tensor, "samples values"]) -> bool:
    score = _score(differences.mean(dim=0), differences.square().mean(dim=0), len(differences))
    return score > LARGEST_SCORE


def _score(mean: Tensor, mean_square: Tensor, samples: int) -> float:
    """The largest mean in units of its standard error."""
    errors = ((mean_square - mean.square()).clamp(min=0) / samples).sqrt()
    return float((mean.abs() / errors.clamp(min=torch.finfo(mean.dtype).tiny)).max())
