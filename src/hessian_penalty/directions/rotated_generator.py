"""Any generator with other latents: coordinates along directions."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import as_generator
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.penalty.reachable import reachable


def generator_of(G: Callable[..., Any], matrix: Float[Tensor, "rows latent"]) -> Generator:
    """Return G as a generator with as many latent components as the directions have.

    Raises:
        UserError: G is no callable, or has another number.

    >>> generator_of(torch.sin, torch.eye(3)).latent_dim
    3
    """
    columns = matrix.shape[1]
    generator = as_generator(G, None if hasattr(G, "sample_latents") else columns)
    if generator.latent_dim != columns:
        raise UserError(
            f"`directions` must have {generator.latent_dim} components like the generator's latents, got {columns}; "
            "take directions that were found in this generator."
        )
    return generator


def in_precision_of(G: Any, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch latent"]:
    """Return latents in the precision of the first parameter that G holds, which `sample_latents` may not follow.

    >>> in_precision_of(nn.Linear(2, 3).double(), torch.zeros(1, 2)).dtype
    torch.float64
    """
    parameters = (p for module in reachable(G)[0] for p in module.parameters(recurse=False))
    return z.to(next((p.dtype for p in parameters if p.dtype in (torch.float32, torch.float64)), z.dtype))


class RotatedGenerator(nn.Module):
    r"""G' with :math:`G'(w) = G(w D)`: latent i of G' is the coordinate along row :math:`d_i` of D.

    Its latents are those of G turned, :math:`w = z D^T`: images have G's distribution whatever that of z is, and with
    a square D the same seed gives the same images.

    Args:
        G: the generator, not copied; any callable from latents to images.
        matrix: D, orthonormal rows: as many as latents, or fewer, where what they do not span is 0.

    Attributes:
        generator: G, which says how latents are drawn; N(0, I) where G does not.
        latent_dim: number of rows.

    Raises:
        UserError: G has another number of latent components than D.

    >>> G = RotatedGenerator(lambda z: z[:, :, None, None], torch.tensor([[0.6, 0.8], [-0.8, 0.6]]))
    >>> G(torch.tensor([[1.0, 0.0]])).flatten()
    tensor([0.6000, 0.8000])
    """

    matrix: Tensor

    def __init__(self, G: Callable[..., Any], matrix: Float[Tensor, "rows latent"]) -> None:
        super().__init__()
        self.generator = generator_of(G, matrix)
        self._function = getattr(self.generator, "function", None)  # a module is registered, and moves with this one
        self.latent_dim = matrix.shape[0]
        self.register_buffer("matrix", matrix.detach().clone())

    def __getattr__(self, name: str) -> Any:
        """Find `sample_labels` and the like where the generator has them."""
        if name.startswith("sample_"):
            return getattr(self.generator, name)
        return super().__getattr__(name)

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Float[Tensor, "count rows"]:
        """Latents of G, turned."""
        z = self.generator.sample_latents(count, rng)
        return z @ self.matrix.to(z).T

    def forward(self, w: Float[Tensor, "batch rows"], **conditions: Any) -> Tensor:
        return self.generator(w @ self.matrix.to(w), **conditions)
