import csv
import re

import pytest
import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import UserError


@pytest.fixture
def directions():
    matrix = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0][:3].contiguous()
    return Directions(matrix, torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.3, 0.2, 0.1]), {"method": "hessian"})


def test_round_trip(directions, tmp_path):
    directions.save(tmp_path / "d.safetensors")
    loaded = Directions.load(tmp_path / "d.safetensors")
    assert torch.equal(loaded.matrix, directions.matrix)
    assert torch.equal(loaded.activeness, directions.activeness)
    assert torch.equal(loaded.curvature, directions.curvature)
    assert loaded.provenance == {"method": "hessian"}


def test_csv_has_a_row_a_direction(directions, tmp_path):
    directions.save(tmp_path / "d.csv")
    rows = list(csv.reader((tmp_path / "d.csv").read_text().splitlines()))
    assert rows[0] == ["direction", "activeness", "curvature", "z0", "z1", "z2", "z3"]
    assert [float(value) for value in rows[2][3:]] == pytest.approx(directions.matrix[1].tolist())
    assert len(rows) == 4


def test_edit_moves_along_one_direction(directions):
    z = torch.randn(5, 4)
    moved = directions.edit(z, 2, -1.5)
    assert torch.allclose(moved - z, (-1.5 * directions.matrix[2]).expand(5, 4), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, path: d.edit(torch.zeros(1, 4), 3, 1.0), r"`index` must lie in \[0, 2\], got 3"),
        (lambda d, path: d.edit(torch.zeros(1, 5), 0, 1.0), "`z` must have 4 components like the directions, got 5"),
        (lambda d, path: d.save(path / "d.pt"), "saved as .safetensors or .csv, got 'd.pt'"),
        (lambda d, path: Directions(2 * d.matrix), "`matrix` must have unit rows, got norms from 2"),
        (lambda d, path: Directions(d.matrix, torch.ones(2)), r"`activeness` must have one value per row \(3\), got 2"),
        (lambda d, path: Directions.load(path / "none.safetensors"), "cannot be read as directions"),
    ],
)
def test_errors_say_what_to_change(directions, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        change(directions, tmp_path)


def test_refuses_another_file(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not tensors")
    with pytest.raises(UserError, match=re.escape(str(path))):
        Directions.load(path)
