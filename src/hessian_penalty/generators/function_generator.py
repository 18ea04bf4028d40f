"""Any callable from latents to images as a generator."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator, require_generator
from hessian_penalty.penalty.arguments import check_whole
from hessian_penalty.penalty.reachable import reachable

Sampler = Callable[[int, torch.Generator | None], Tensor]


class FunctionGenerator:
    """A callable with what it lacks: its number of latents and how they are drawn.

    Latents are N(0, I) in the precision and on the device of the first parameter that the function holds, unless
    `sample` says otherwise; for a space of other latents (the w of a mapping network, say) it has to.

    Args:
        function: from latents (N, latent_dim) to images (N, C, H, W).
        latent_dim: number of latent components; None asks `sample` for one latent.
        sample: latents from (count, rng).

    Raises:
        UserError: neither `latent_dim` nor `sample` is given, or they disagree.

    >>> G = FunctionGenerator(lambda z: z[:, :, None, None], latent_dim=3)
    >>> G(G.sample_latents(2)).shape
    torch.Size([2, 3, 1, 1])
    """

    def __init__(
        self, function: Callable[..., Any], latent_dim: int | None = None, sample: Sampler | None = None
    ) -> None:
        if latent_dim is None and sample is None:
            raise UserError(
                f"`latent_dim` is needed for a {type(function).__name__} that does not carry it: the number of "
                "components of one latent."
            )
        if latent_dim is not None:
            check_whole("latent_dim", latent_dim)
        if latent_dim is not None and latent_dim < 1:
            raise UserError(f"`latent_dim` must be at least 1, got {latent_dim}.")
        self.function = function
        self._sample = sample
        parameters = chain.from_iterable(module.parameters(recurse=False) for module in reachable(function)[0])
        self._like = next((p for p in parameters if p.is_floating_point()), torch.empty(0))
        drawn = None if sample is None else self.sample_latents(1).shape[1]
        if latent_dim is not None and drawn not in (None, latent_dim):
            raise UserError(f"`latent_dim` is {latent_dim}, but `sample` draws latents of {drawn} components.")
        self.latent_dim: int = latent_dim or drawn or 0

    def __getattr__(self, name: str) -> Any:
        """Pass on what else the function has to say: how conditions are drawn, which subspaces it names."""
        if name == "subspaces" or name.startswith("sample_"):
            return getattr(self.function, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Float[Tensor, "count latent"]:
        """Draw latents."""
        if self._sample is not None:
            return self._sample(count, rng)
        return torch.randn(count, self.latent_dim, generator=rng, device=rng.device if rng else None).to(self._like)

    def __call__(self, z: Float[Tensor, "batch latent"], **conditions: Any) -> Tensor:
        """Images of the function."""
        images: Tensor = self.function(z, **conditions)
        return images


def as_generator(G: Any, latent_dim: int | None = None) -> Generator:
    """Return G itself if it is a generator, or the callable G made one.

    Raises:
        UserError: it is no callable, or `latent_dim` is missing or another than G's own.

    >>> as_generator(torch.nn.Linear(4, 3), latent_dim=4).latent_dim
    4
    """
    if hasattr(G, "latent_dim") and hasattr(G, "sample_latents"):
        require_generator(G)
        if latent_dim not in (None, G.latent_dim):
            raise UserError(f"`latent_dim` is {latent_dim}, but the generator's own is {G.latent_dim}; leave it out.")
        generator: Generator = G
        return generator
    if not callable(G):
        require_generator(G)
    own = getattr(G, "latent_dim", None)
    if isinstance(own, int):
        if latent_dim not in (None, own):
            raise UserError(f"`latent_dim` is {latent_dim}, but the generator's own is {own}; leave it out.")
        latent_dim = own
    return FunctionGenerator(G, latent_dim)
