"""Random pictures of a generator, the same ones each time for a seed."""

from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.grids import image_grid


def seeded_latents(generator: Generator, count: int, seed: int) -> Float[Tensor, "count latent"]:
    """Latents that depend on the seed alone: the first ones are the same whatever the count.

    Draws from its own random state and leaves the global one as it is.

    Raises:
        UserError: `count` is less than 1.
    """
    if count < 1:
        raise UserError(f"`count` must be at least 1, got {count}.")
    rng = torch.Generator().manual_seed(seed)
    return torch.cat([generator.sample_latents(1, rng) for _ in range(count)])


@torch.no_grad()
def generate(
    generator: Generator, z: Float[Tensor, "*batch latent"], batch_size: int = 64
) -> Float[Tensor, "*batch channels height width"]:
    """Images of latents of any leading shape, `batch_size` at a time, on the CPU in float32."""
    flat = z.reshape(-1, z.shape[-1])  # (N, n)
    images = torch.cat([generator(part).float().cpu() for part in torch.split(flat, batch_size)])
    return images.reshape(*z.shape[:-1], *images.shape[1:])  # (*batch, C, H, W)


def sample_sheet(
    generator: Generator, *, seed: int = 0, rows: int = 4, columns: int = 8, **options: Any
) -> Image.Image:
    """A picture of `rows` × `columns` random images.

    Args:
        options: as of `image_grid`.

    >>> from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
    >>> G = ProGANGenerator(ProGANConfig(channels=(4, 4)))
    >>> sample_sheet(G, rows=2, columns=3).size  # 8-pixel images, eight times enlarged, 2 pixels apart
    (196, 130)
    """
    images = generate(generator, seeded_latents(generator, rows * columns, seed))
    return image_grid(images.reshape(rows, columns, *images.shape[1:]), **options)
