"""A generator whose latents are another network's outputs: the w of a mapping network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator


class MappedGenerator(FunctionGenerator):
    r"""The synthesis network g of :math:`G(z) = g(f(z))` as a generator in its own latent space.

    Its latents are :math:`w = f(z), z \sim N(0, I)`, drawn without gradient; a call is g(w). Directions then lie in the
    space of w, which is not normally distributed: a rotation of w, unlike one of z, changes its distribution.

    Args:
        mapping: f, from z (N, z_dim) to w (N, latent_dim); a network in eval mode.
        synthesis: g, from w (N, latent_dim) to images (N, C, H, W).
        latent_dim: number of components of w.
        z_dim: number of components of z; None for as many as w has.

    Raises:
        UserError: the mapping does not return latents of `latent_dim` components.

    Source: Karras et al., "A Style-Based Generator Architecture for GANs", CVPR 2019, §2, for the two networks.

    >>> G = MappedGenerator(torch.nn.Linear(8, 3), lambda w: w[:, :, None, None], latent_dim=3, z_dim=8)
    >>> G(G.sample_latents(2)).shape
    torch.Size([2, 3, 1, 1])
    """

    def __init__(
        self,
        mapping: Callable[[Tensor], Any],
        synthesis: Callable[..., Any],
        latent_dim: int,
        z_dim: int | None = None,
    ) -> None:
        normal = FunctionGenerator(mapping, latent_dim if z_dim is None else z_dim)

        def sample(count: int, rng: torch.Generator | None) -> Tensor:
            with torch.no_grad():
                w = mapping(normal.sample_latents(count, rng))
            if not isinstance(w, Tensor) or w.shape != (count, latent_dim):
                came = tuple(w.shape) if isinstance(w, Tensor) else type(w).__name__
                raise UserError(
                    f"`mapping` must return latents of shape {(count, latent_dim)} for {count} z, got {came}; "
                    "wrap it so that it does, or change `latent_dim`."
                )
            return w

        super().__init__(synthesis, latent_dim, sample)
        self.mapping = mapping
