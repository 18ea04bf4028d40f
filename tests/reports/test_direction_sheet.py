from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import UserError
from hessian_penalty.reports.direction_sheet import direction_sheet, edit_sheet
from hessian_penalty.reports.samples import seeded_latents

TILE, STEP, GROUP = 64, 66, 10  # 16-pixel images, four times enlarged, 2 pixels apart; between groups 10 more


def tiles(path: Path, rows: int, columns: int, together: int = 1) -> np.ndarray:
    """The tiles of a picture as (rows, columns, 16, 16); they end at its right and lower edge."""
    picture = np.asarray(Image.open(path))
    groups = rows // together
    top = len(picture) - (rows * STEP - 2 + (groups - 1) * (GROUP if together > 1 else 0))
    left = picture.shape[1] - (columns * STEP - 2)
    assert top > 0
    assert left > 0, "there are labels"
    cut = np.zeros((rows, columns, 16, 16), int)
    for row in range(rows):
        y = top + row * STEP + (row // together * GROUP if together > 1 else 0)
        for column in range(columns):
            tile = picture[y : y + TILE, left + column * STEP :][:, :TILE]
            assert (tile[..., 3] == 255).all()
            cut[row, column] = tile[::4, ::4, 0]
    return cut


def edges(row: np.ndarray) -> list[int]:
    """Left edge of the square in each tile."""
    return [int(tile.max(axis=0).nonzero()[0][0]) for tile in row]


def test_rows_are_directions_and_columns_positions(square: Any, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    direction_sheet(square, Directions(torch.eye(3)[[1, 0]]), path, steps=5, extent=2.0)
    found = tiles(path, 2, 5)
    assert edges(found[1]) == [0, 3, 6, 9, 12], "z0 is what the column says, whatever it was"
    assert found[0].max(axis=(1, 2)).tolist() == [128, 159, 191, 223, 255]
    assert len(set(edges(found[0]))) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_samples_stand_together_and_keep_what_is_theirs(square: Any, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    direction_sheet(square, Directions(torch.eye(3)[:2]), path, samples=3, steps=3, extent=2.0)
    found = tiles(path, 6, 3, together=3)
    assert [edges(row) for row in found[:3]] == [[0, 6, 12]] * 3
    z = seeded_latents(square, 3, 0)
    expected = [edges((square(z[row : row + 1])[:, 0] + 1).numpy())[0] for row in range(3)]
    assert [edges(row) for row in found[3:]] == [[edge] * 3 for edge in expected]


def test_count_shows_the_first_ones_of_the_same_picture(square: Any, tmp_path: Path) -> None:
    for count in (2, None):
        direction_sheet(square, Directions(torch.eye(3)), tmp_path / f"{count}.png", count=count)
    assert (tiles(tmp_path / "2.png", 2, 7) == tiles(tmp_path / "None.png", 3, 7)[:2]).all()


def test_activeness_and_positions_are_labels(square: Any, tmp_path: Path) -> None:
    """A label that is longer or higher takes more room; the ink above the tiles stands over the ends and the middle."""
    direction_sheet(square, Directions(torch.eye(3)), tmp_path / "plain.png")
    known = Directions(torch.eye(3), activeness=torch.tensor([0.2, 0.1, 0.0]))
    direction_sheet(square, known, tmp_path / "known.png")
    plain, named = (np.asarray(Image.open(tmp_path / f"{name}.png"))[..., 3] for name in ("plain", "known"))
    assert plain.shape == named.shape
    assert (named[:, :80] > 0).sum() > 1.3 * (plain[:, :80] > 0).sum()
    left = plain.shape[1] - (7 * STEP - 2)
    heads = [bool(plain[:16, left + column * STEP :][:, :TILE].any()) for column in range(7)]
    assert heads == [True, False, False, True, False, False, True]


def test_the_edit_sheet_adds_to_what_is_there(square: Any, tmp_path: Path) -> None:
    path = tmp_path / "edit.png"
    edit_sheet(square, Directions(torch.eye(3)), path, 1, [-1.0, 0.0, 1.0], samples=3)
    found = tiles(path, 3, 4, together=3)
    assert (found[:, 0] == found[:, 2]).all(), "the first column is the unedited picture"
    z = seeded_latents(square, 3, 0)
    values = found.max(axis=(2, 3)) / 127.5 - 1
    expected = 0.5 + (z[:, 1:2] + torch.tensor([[0.0, -1.0, 0.0, 1.0]])) / 4
    assert np.abs(values - expected.clamp(-1, 1).numpy()).max() < 0.01


def test_helpful_errors(square: Any, tmp_path: Path) -> None:
    directions, path = Directions(torch.eye(3)), tmp_path / "a.png"
    for count in (0, 4):
        with pytest.raises(UserError, match=rf"`count` must lie in \[1, 3\], the number of directions, got {count}"):
            direction_sheet(square, directions, path, count=count)
    with pytest.raises(UserError, match="steps must be a finite number at least 2, got 1"):
        direction_sheet(square, directions, path, steps=1)
    for extent in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="`extent` must be a positive number, half the length of the way, got"):
            direction_sheet(square, directions, path, extent=extent)
    with pytest.raises(UserError, match=r"`amounts` must hold at least one number, and finite ones, got none"):
        edit_sheet(square, directions, path, 0, [])
    with pytest.raises(UserError, match=r"`amounts` must hold at least one number, and finite ones, got \[inf\]"):
        edit_sheet(square, directions, path, 0, [float("inf")])
    with pytest.raises(UserError, match=r"each in \[0, 2\], got \[3\]"):
        edit_sheet(square, directions, path, 3, [1.0])
    assert list(tmp_path.iterdir()) == []
