"""What everything above sees of a generator."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hessian_penalty.errors import UserError


@runtime_checkable
class Generator(Protocol):
    """A map from latents to images that knows how its latents are distributed.

    Attributes:
        latent_dim: number of latent components n.
    """

    latent_dim: int

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        """Latents (count, latent_dim) from the distribution that the generator was trained with.

        Drawn on the device of `rng`, which may be the CPU's, then moved to the generator's.
        """
        ...

    def __call__(self, z: Tensor, **conditions: Any) -> Tensor:
        """Images (N, C, H, W) in about [-1, 1]."""
        ...


def require_generator(G: Any) -> None:
    """Refuse what does not say how many latents it takes and how they are drawn.

    Raises:
        UserError: names what is missing.
    """
    missing = [name for name in ("latent_dim", "sample_latents") if not hasattr(G, name)]
    if missing or not callable(G):
        what = " and ".join(missing) or "__call__"
        raise UserError(
            f"A generator needs `latent_dim`, `sample_latents(count, rng)` and a call from latents to images; "
            f"{type(G).__name__} has no {what}. Wrap it in a small class that has them."
        )
