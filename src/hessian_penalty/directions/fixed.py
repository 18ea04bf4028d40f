"""Bases that need no search, to compare with: the given coordinates, and a random rotation of them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hessian_penalty.directions.method import Found, Method, Progress, Space
from hessian_penalty.directions.search_state import SearchState


@dataclass(frozen=True)
class Coordinates(Method):
    """The space's own rows: the latent components, where all of them are searched.

    >>> from hessian_penalty.directions.discover import discover
    >>> discover(lambda z: z[:, :, None, None], latent_dim=2, method=Coordinates(), count=1).matrix.sum()
    tensor(1.)
    """

    name: ClassVar[str] = "coordinates"

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Return the rows as they are; nothing is drawn."""
        return Found(space.rows)


@dataclass(frozen=True)
class RandomBasis(Method):
    r"""A rotation or reflection of the space's rows, uniform over all of them (Haar measure).

    Q of the decomposition X = QR of a standard normal matrix, each column multiplied by the sign of its :math:`R_{ii}`:
    without that the distribution depends on how the decomposition chooses signs.

    Source: Mezzadri, "How to generate random matrices from the classical compact groups", Notices of the AMS 2007.

    >>> from hessian_penalty.generators.function_generator import FunctionGenerator
    >>> space = Space(FunctionGenerator(torch.sin, 3), torch.eye(3, dtype=torch.float64))
    >>> rows = RandomBasis().search(space, rng=torch.Generator().manual_seed(0)).rows
    >>> torch.allclose(rows @ rows.T, space.rows)
    True
    """

    name: ClassVar[str] = "random"

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Draw the basis."""
        normal = torch.randn(space.dim, space.dim, generator=rng, device=rng.device).cpu().double()
        orthonormal, triangle = torch.linalg.qr(normal)
        return Found((orthonormal * triangle.diagonal().sign()).T @ space.rows)
