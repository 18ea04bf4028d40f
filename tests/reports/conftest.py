"""A generator whose traversal is known: a white square with its place in z0, its brightness in z1; z2 does nothing."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hessian_penalty.reports.entry import ModelEntry, model_entry

SIZE, SQUARE = 16, 4


class SquareGenerator:
    """Images (N, 1, 16, 16): a 4-pixel square, its left edge at 6 + 3 z0 rounded, its value z1 / 4 + 0.5."""

    latent_dim = 3

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, self.latent_dim, generator=rng)

    def __call__(self, z: Tensor, **conditions: Any) -> Tensor:
        left = (6 + 3 * z[:, 0]).round().clamp(0, SIZE - SQUARE)[:, None]
        columns = torch.arange(SIZE)[None]
        inside = (columns >= left) & (columns < left + SQUARE)  # (N, W)
        rows = (torch.arange(SIZE) >= 6) & (torch.arange(SIZE) < 10)
        mask = (rows[None, :, None] & inside[:, None, :]).float()  # (N, H, W)
        return (mask * (1.5 + z[:, 1] / 4)[:, None, None] - 1)[:, None]


@pytest.fixture
def square() -> SquareGenerator:
    return SquareGenerator()


def make_measures(**changes: Any) -> dict[str, Any]:
    record = {
        "activeness": [0.2, 0.05, 0.0],
        "activeness_published": [0.2, 0.05, 0.0],
        "effective_latents": 2.0,
        "off_diagonal_share": 0.4,
        "frechet": 50.0,
        "extractor": "efficientnet-lite0",
        "hessian": [[3.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]],
        "kimg": 60.0,
    }
    return record | changes


@pytest.fixture
def measures() -> Callable[..., dict[str, Any]]:
    """Makes a record as `hessian_penalty.metrics` does, with the changes given."""
    return make_measures


@pytest.fixture
def reference(square: SquareGenerator) -> ModelEntry:
    records = [{"kimg": float(k), "critic_loss": 1.0 / k, "images_per_second": 90.0} for k in range(1, 4)]
    return model_entry(
        square, "vanilla", "No penalty.", make_measures(), metrics=records,
        settings={"seed": 0, "penalty": {"weight": 0.0}}, video=True,
    )  # fmt: skip


@pytest.fixture
def better(square: SquareGenerator) -> ModelEntry:
    record = make_measures(effective_latents=1.0, off_diagonal_share=0.1, frechet=55.0, kimg=90.0)
    settings = {"seed": 0, "penalty": {"weight": 0.1}}
    return model_entry(square, "penalised", "With the penalty.", record, settings=settings, video=False)
