"""Generators whose Hessians are known, or cheap to compare."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn


class Blocks(nn.Module):
    """A small smooth network with named blocks, a shared activation and several outputs."""

    def __init__(self, latent_dim: int = 4, width: int = 6, depth: int = 3) -> None:
        super().__init__()
        dims = [latent_dim] + [width] * depth
        self.blocks = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(dims))
        self.act = nn.Tanh()
        self.head = nn.Linear(width, 3)

    def activations(self, z: Tensor) -> list[Tensor]:
        outputs = []
        for block in self.blocks:
            z = self.act(block(z))
            outputs.append(z)
        return outputs

    def forward(self, z: Tensor) -> Tensor:
        return self.head(self.activations(z)[-1])


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def blocks() -> Blocks:
    """Seeded, in float64, with weights large enough for curvature."""
    torch.manual_seed(1)
    G = Blocks().double()
    with torch.no_grad():
        for parameter in G.parameters():
            parameter.mul_(2.0)
    return G


@pytest.fixture
def quadratic(rng: torch.Generator) -> Callable[[int, int], tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Make z -> z^T H_p z / 2 + b_p z + c for `elements` random symmetric H_p: the function and (elements, n, n)."""

    def make(n: int, elements: int) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        H = torch.randn(elements, n, n, generator=rng, dtype=torch.float64)
        H = H + H.mT
        b = torch.randn(elements, n, generator=rng, dtype=torch.float64)
        return lambda z: torch.einsum("si,pij,sj->sp", z, H, z) / 2 + z @ b.T + 1.5, H

    return make
