from typing import Any

import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.reports.traversals import by_activeness, traversal_grid, traversal_latents, traverse

VALUES = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])


def left_edges(images: torch.Tensor) -> list[int]:
    return [int((image[0].max(dim=0).values > -1).nonzero()[0]) for image in images]


def test_the_square_moves_with_z0_and_with_nothing_else(square: Any) -> None:
    images = traverse(square, torch.zeros(3), [2, 0, 1], VALUES)
    assert images.shape == (3, 5, 1, 16, 16)
    assert left_edges(images[1]) == [0, 3, 6, 9, 12]
    assert left_edges(images[2]) == [6] * 5
    assert images[2].amax(dim=(1, 2, 3)).tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_the_row_of_a_latent_without_effect_is_constant(square: Any) -> None:
    images = traverse(square, 4, [2, 0, 1], VALUES)
    assert (images[0] == images[0, :1]).all()


def test_rows_only_differ_from_the_base_in_their_own_latent() -> None:
    bases = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    z = traversal_latents(bases, [3, 1], VALUES)
    for row, index in enumerate([3, 1]):
        others = [other for other in range(4) if other != index]
        assert torch.equal(z[row, :, index], VALUES)
        assert torch.equal(z[row][:, others], bases[:, others])


def test_a_generator_that_normalises_its_latents_is_used_as_it_is() -> None:
    torch.manual_seed(0)
    generator = ProGANGenerator(ProGANConfig(latent_dim=3, channels=(4, 4)))
    z = traversal_latents(torch.ones(5, 3), [0], VALUES)
    with torch.no_grad():
        assert torch.allclose(traverse(generator, torch.ones(3), [0], VALUES)[0], generator(z[0]), atol=1e-6)


def test_order_is_by_activeness_and_stable() -> None:
    assert by_activeness([0.0, 0.3, 0.0, 0.5]) == [3, 1, 0, 2]


def test_the_grid_orders_and_labels_its_rows(square: Any) -> None:
    named = np.asarray(traversal_grid(square, seed=0))
    ordered = np.asarray(traversal_grid(square, activeness=[0.05, 0.0, 0.2], seed=0))
    first, last = named[-3 * 64 - 4 :, -7 * 66 + 2 :][:64], ordered[-3 * 64 - 4 :, -7 * 66 + 2 :][66:130]
    assert (first == last).all(), "z0 is the second most active"
    assert ordered.shape[1] > named.shape[1], "the activeness needs room beside its row"
    assert len(traversal_grid(square, activeness=[0.05, 0.0, 0.2], most=1).getbbox() or ()) == 4


def test_most_cuts_the_least_active_rows(square: Any) -> None:
    whole, cut = (np.asarray(traversal_grid(square, activeness=[0.05, 0.0, 0.2], most=most)) for most in (None, 2))
    assert len(cut) == len(whole) - 66
    assert (cut[:, -100:] == whole[: len(cut), -100:]).all()


def test_helpful_errors(square: Any) -> None:
    with pytest.raises(UserError, match=r"`order` must name latents from 0 to 2, got \[3\]"):
        traverse(square, 0, [0, 3], VALUES)
    with pytest.raises(UserError, match="`order` must name latents from 0 to 2, got none"):
        traverse(square, 0, [], VALUES)
    with pytest.raises(UserError, match="one figure for each of the 3 latents, got 2"):
        traversal_grid(square, activeness=[0.1, 0.2])
