"""What everything above sees of a generator."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Generator(Protocol):
    """A map from latents to images that knows how its latents are distributed.

    Attributes:
        latent_dim: number of latent components n.
    """

    latent_dim: int

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        """Latents (count, latent_dim) from the distribution that the generator was trained with."""
        ...

    def __call__(self, z: Tensor, **conditions: Any) -> Tensor:
        """Images (N, C, H, W) in about [-1, 1]."""
        ...
