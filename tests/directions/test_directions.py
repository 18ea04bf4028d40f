import csv
import re

import pytest
import torch
from jaxtyping import config
from safetensors.torch import save_file

from hessian_penalty.directions.descent import gradients
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


def test_tensors_that_share_memory_are_saved(tmp_path):
    activeness = torch.tensor([3.0, 2.0, 1.0])
    Directions(torch.eye(3), activeness, activeness).save(tmp_path / "d.safetensors")
    loaded = Directions.load(tmp_path / "d.safetensors")
    assert torch.equal(loaded.activeness, activeness)
    assert torch.equal(loaded.curvature, activeness)


@pytest.fixture
def unchecked_shapes():
    """As for a user: jaxtyping, which only the tests turn on, would refuse the tensor first."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


NO_MATRICES = [
    (torch.tensor([0.6, 0.8]), r"got torch.float32 of shape \(2,\)"),
    (torch.ones(1, 1, 1), r"got torch.float32 of shape \(1, 1, 1\)"),
    (torch.zeros(0, 3), r"got torch.float32 of shape \(0, 3\)"),
    (torch.eye(3, dtype=torch.int64), r"got torch.int64 of shape \(3, 3\)"),
]


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("matrix", "got"), NO_MATRICES)
def test_what_is_no_matrix_of_directions_is_refused(tmp_path, matrix, got):
    message = rf"`matrix` must be a floating-point tensor of shape \(count, latent_dim\) with at least one row, {got}"
    with pytest.raises(UserError, match=f"^{message}; give a direction a row"):
        Directions(matrix)
    path = tmp_path / "x.safetensors"
    save_file({"matrix": matrix}, path)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} cannot be read as directions: {message}"):
        Directions.load(path)


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


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_descent_without_gradients_names_what_takes_them_away(without):
    z = torch.ones(2, requires_grad=True)
    with without():
        loss = z.sum()
    with pytest.raises(UserError, match=rf"gives no gradient .*torch\.{without.__name__}\(\).* 'random'\."):
        gradients(loss, [z])
