import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_penalty.errors import UserError
from hessian_penalty.reports.grids import GridPainter, image_grid, images_uint8, png_bytes


def test_every_pixel_becomes_a_block_of_its_value() -> None:
    images = torch.rand(2, 3, 3, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    picture = np.asarray(image_grid(images, scale=3, gap=1))
    assert picture.shape == (2 * 15 + 1, 3 * 12 + 2, 4)
    expected = images_uint8(images)
    for row in range(2):
        for column in range(3):
            tile = picture[row * 16 : row * 16 + 15, column * 13 : column * 13 + 12]
            assert (tile[..., :3] == np.kron(expected[row, column], np.ones((3, 3, 1), np.uint8))).all()
            assert (tile[..., 3] == 255).all()


def test_gaps_are_transparent_or_of_the_given_ground() -> None:
    images = torch.ones(2, 1, 3, 4, 4)
    assert np.asarray(image_grid(images, scale=1, gap=2))[4:6, :, 3].max() == 0
    opaque = np.asarray(image_grid(images, scale=1, gap=2, background=(9, 8, 7)))
    assert opaque.shape == (10, 4, 3)
    assert (opaque[4:6] == [9, 8, 7]).all()


def test_grey_images_become_grey() -> None:
    picture = np.asarray(image_grid(torch.tensor([-1.0, 0.0, 0.5, 1.0]).reshape(1, 1, 1, 2, 2), scale=1))
    assert (picture[..., 0] == picture[..., 1]).all()
    assert (picture[..., 1] == picture[..., 2]).all()
    assert picture[..., 0].tolist() == [[0, 128], [191, 255]]


@pytest.mark.parametrize(("size", "scale"), [(32, 2), (33, 2), (8, 8), (64, 1), (128, 1)])
def test_small_images_are_enlarged_until_legible(size: int, scale: int) -> None:
    painter = GridPainter(1, 1, size, size)
    assert painter.scale == scale
    assert painter.size == (size * scale, size * scale)


def test_labels_stand_beside_their_rows_and_columns() -> None:
    painter = GridPainter(3, 2, 32, 32, row_labels=["z0", "", "z2\n0.1"], column_labels=["", "+2"])
    alpha = np.asarray(painter.paint(torch.zeros(3, 2, 3, 32, 32)))[..., 3]
    assert painter.left > 0
    assert painter.top > 0

    def inked(row: int) -> bool:
        top = painter.tile_corner(row, 0)[1]
        return bool(alpha[top : top + painter.tile_height, : painter.left].any())

    assert [inked(row) for row in range(3)] == [True, False, True]
    above = [alpha[: painter.top, painter.tile_corner(0, column)[0] :][:, : painter.tile_width] for column in (0, 1)]
    assert not above[0].any()
    assert above[1].any()
    assert not alpha[:, painter.left - 3 : painter.left].any(), "labels keep clear of the tiles"
    assert not alpha[:, 0].all()
    assert painter.tile_corner(1, 1) == (painter.left + 66, painter.top + 66)


def test_rows_of_one_label_stand_together_with_the_label_at_their_middle() -> None:
    painter = GridPainter(4, 1, 64, 64, row_labels=["a", "b"], rows_a_label=2)
    tops = [painter.tile_corner(row, 0)[1] for row in range(4)]
    assert [low - high for high, low in itertools.pairwise(tops)] == [66, 76, 66]
    picture = np.asarray(painter.paint(torch.zeros(4, 1, 1, 64, 64)))
    assert len(picture) == tops[-1] + 64
    inked = picture[:, : painter.left, 3].any(axis=1).nonzero()[0]
    assert abs(inked[inked < 130].mean() - 65) < 4
    assert abs(inked[inked > 130].mean() - (tops[2] + 65)) < 4


def test_rows_may_come_one_by_one() -> None:
    images = torch.rand(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    painter = GridPainter(3, 2, 8, 8)
    assert (painter.paint_array(row for row in images) == painter.paint_array(images)).all()


def test_labels_keep_clear_of_the_edge_of_a_ground() -> None:
    picture = np.asarray(image_grid(torch.zeros(1, 1, 3, 64, 64), row_labels=["dd"], background=(0, 0, 0)))
    assert not picture[:, :8].any()
    assert picture[:, 8:20].any()


def test_even_pads_to_even_sizes() -> None:
    assert GridPainter(1, 1, 5, 7, scale=1, even=True, background=(0, 0, 0)).size == (8, 6)


def test_png_holds_the_picture() -> None:
    picture = image_grid(torch.zeros(1, 1, 3, 8, 8))
    assert (np.asarray(Image.open(io.BytesIO(png_bytes(picture)))) == np.asarray(picture)).all()


def test_helpful_errors() -> None:
    with pytest.raises(UserError, match=r"1 \(grey\) or 3 \(RGB\) channels, got 2"):
        images_uint8(torch.zeros(2, 4, 4))
    with pytest.raises(UserError, match="hold NaN"):
        images_uint8(torch.full((1, 4, 4), float("nan")))
    with pytest.raises(UserError, match="`row_labels` must name each row: expected 2, got 1"):
        image_grid(torch.zeros(2, 1, 3, 4, 4), row_labels=["a"])
    with pytest.raises(UserError, match="`column_labels` must name each column: expected 1, got 2"):
        image_grid(torch.zeros(2, 1, 3, 4, 4), column_labels=["a", "b"])
