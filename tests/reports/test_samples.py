from typing import Any

import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.reports.grids import image_grid
from hessian_penalty.reports.samples import generate, sample_sheet, seeded_latents


def test_a_seed_gives_the_same_latents_whatever_the_count_and_leaves_the_global_state(square: Any) -> None:
    state = torch.get_rng_state()
    few, many, other = (seeded_latents(square, count, seed) for count, seed in ((3, 5), (40, 5), (3, 6)))
    assert torch.equal(few, many[:3])
    assert not torch.equal(few, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_sheet_shows_the_images_of_those_latents_row_by_row(square: Any) -> None:
    images = square(seeded_latents(square, 6, 3))
    expected = image_grid(images.unflatten(0, (2, 3)))
    assert (np.asarray(sample_sheet(square, seed=3, rows=2, columns=3)) == np.asarray(expected)).all()


def test_generate_does_not_depend_on_the_batch_size_and_keeps_leading_shapes(square: Any) -> None:
    z = seeded_latents(square, 12, 0).unflatten(0, (3, 4))
    assert generate(square, z).shape == (3, 4, 1, 16, 16)
    assert torch.equal(generate(square, z, batch_size=5), generate(square, z, batch_size=64))


def test_no_samples_is_refused(square: Any) -> None:
    with pytest.raises(UserError, match="`count` must be at least 1, got 0"):
        seeded_latents(square, 0, 0)
