import hashlib
import re
from pathlib import Path

import pytest
import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.published import gram_schmidt, read_published
from hessian_penalty.errors import UserError
from hessian_penalty.generators.biggan import BigGAN, BigGANConfig

SAMPLES = Path(__file__).parents[2] / ".." / "shared" / "data" / "biggan_directions"


def step_by_step(matrix):
    """Gram-Schmidt as the books write it, one projection at a time."""
    found = []
    for row in matrix.double():
        for direction in found:
            row = row - (row @ direction) * direction
        found.append(row / row.norm())
    return torch.stack(found)


def random_matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def write(folder, value, name="d.pt"):
    torch.save(value, folder / name)
    return folder / name


def test_gram_schmidt_keeps_order_and_sign():
    matrix = random_matrix(7, 9)
    assert torch.allclose(gram_schmidt(matrix), step_by_step(matrix), atol=1e-12)


def test_a_whole_matrix(tmp_path):
    matrix = 20 * random_matrix(120, 120)
    path = write(tmp_path, matrix)
    found = read_published(path)
    assert torch.allclose(found.matrix.double(), step_by_step(matrix), atol=1e-6)
    assert found.matrix.dtype == torch.float32
    assert found.activeness is None
    assert found.provenance == {
        "method": "published", "file": "d.pt", "components": [0, 120],
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }  # fmt: skip


def test_fewer_rows_than_components(tmp_path):
    matrix = random_matrix(3, 5)
    assert torch.allclose(
        read_published(write(tmp_path, matrix.double()), 5).matrix.double(), step_by_step(matrix), atol=1e-6
    )


def test_a_transposed_view_is_read_as_its_rows(tmp_path):
    matrix = random_matrix(120, 120)
    found = read_published(write(tmp_path, matrix.T))
    assert torch.allclose(found.matrix.double(), step_by_step(matrix.T), atol=1e-5)


@pytest.mark.parametrize(("word", "start"), [("coarse", 0), ("mid", 40), ("fine", 80)])
@pytest.mark.parametrize("told", ["by name", "by argument", "by slice"])
def test_a_third_is_padded_with_zeros(tmp_path, word, start, told):
    matrix = random_matrix(40, 40)
    path = write(tmp_path, matrix, f"our_{word}.pt" if told == "by name" else "unsaid.pt")
    found = read_published(path, subspace={"by argument": word, "by slice": slice(start, start + 40)}.get(told))
    assert torch.allclose(found.matrix[:, start : start + 40].double(), step_by_step(matrix), atol=1e-6)
    assert float(found.matrix.abs().sum()) == pytest.approx(float(step_by_step(matrix).abs().sum()), rel=1e-5)
    assert found.provenance["components"] == [start, start + 40]


def test_the_argument_wins_over_the_name(tmp_path):
    path = write(tmp_path, random_matrix(40, 40), "coarse.pt")
    assert read_published(path, subspace="fine").provenance["components"] == [80, 120]


def test_thirds_are_those_that_biggan_names(tmp_path):
    with torch.device("meta"):
        named = BigGAN(BigGANConfig()).subspaces
    for word in ("coarse", "mid", "fine"):
        start, stop = read_published(write(tmp_path, torch.eye(40), f"{word}.pt")).provenance["components"]
        assert slice(start, stop) == named[word]


def test_directions_load_reads_it_too(tmp_path):
    path = write(tmp_path, random_matrix(40, 40), "my-mid.pt")
    assert torch.equal(Directions.load(path).matrix, read_published(path).matrix)


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("the file's code ran",))


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (torch.ones(120), {}, r"one matrix of floating point numbers, got torch.float32 of shape \(120,\)"),
        (torch.eye(120).long(), {}, "got torch.int64 of shape"),
        (torch.ones(0, 120), {}, r"of shape \(0, 120\)"),
        ({"A": torch.eye(120)}, {}, "got dict with A; save the matrix alone"),
        (3.0, {}, "got float"),
        (torch.eye(120) * float("nan"), {}, "finite numbers, got NaN"),
        (Harmful(), {}, "holds more than tensors, and is not unpickled"),
        (torch.eye(40), {}, "has 40 columns for 120 latent components; say which with `subspace`: coarse, mid, fine"),
        (torch.eye(30), {}, "has 30 columns for 120 latent components"),
        (torch.eye(40), {"latent_dim": 140}, "has 40 columns for 140 latent components"),
        (torch.eye(40), {"subspace": "middle"}, "`subspace` 'middle' is unknown; give coarse, mid, fine"),
        (torch.eye(40), {"subspace": "mid", "latent_dim": 150}, "`subspace` names 50 of 150 components, in steps of 1"),
        (torch.eye(40), {"subspace": slice(0, 41)}, "has 40 columns, but `subspace` names 41 of 120 components"),
        (torch.eye(40), {"subspace": slice(0, 80, 2)}, "names 40 of 120 components, in steps of 2"),
        (torch.eye(40), {"subspace": slice(100, 140)}, "names 20 of 120 components"),
        (torch.eye(120), {"subspace": "mid"}, "has 120 columns, but `subspace` names 40"),
        (random_matrix(9, 4), {"latent_dim": 4}, "got 9 × 4; transpose it if its columns are the directions"),
        (random_matrix(4, 2) @ random_matrix(2, 5), {"latent_dim": 5}, "independent rows; row 2 is zero or a combin"),
        (torch.eye(5) * torch.tensor([[1.0], [0.0], [1.0], [1.0], [1.0]]), {"latent_dim": 5}, "row 1 is zero or a com"),
    ],
)
def test_errors_say_what_to_change(tmp_path, value, options, message):
    with pytest.raises(UserError, match=message) as caught:
        read_published(write(tmp_path, value), **options)
    if not message.startswith("`subspace`"):
        assert str(tmp_path / "d.pt") in str(caught.value)


def test_words_count_only_alone(tmp_path):
    for name in ("refined.pt", "pyramid.pt", "coarse_to_fine.pt", "nothing.pt"):
        with pytest.raises(UserError, match="say which with `subspace`"):
            read_published(write(tmp_path, torch.eye(40), name))


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.pt cannot be read: .*No such file"):
        read_published(tmp_path / "none.pt")
    path = write(tmp_path, torch.eye(120))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=re.escape(f"{path} cannot be read as a matrix (RuntimeError)")):
        read_published(path)


def test_a_torchscript_file_is_refused_without_warning(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "G.pt")
    with pytest.raises(UserError, match="cannot be read as a matrix"):
        read_published(tmp_path / "G.pt")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the published files lie beside the checkout, and here do not")
@pytest.mark.parametrize(
    ("name", "count", "start"),
    [
        ("our_goldens", 120, 0),
        ("our_church", 120, 0),
        ("voynov", 120, 0),
        ("our_goldens_coarse", 40, 0),
        ("our_goldens_mid", 40, 40),
        ("our_goldens_fine", 40, 80),
    ],
)
def test_the_published_files(name, count, start):
    path = SAMPLES / f"{name}.pt"
    found = Directions.load(path).matrix.double()
    raw = torch.load(path, weights_only=True)
    assert found.shape == (count, 120)
    assert torch.allclose(found[:, start : start + count], step_by_step(raw), atol=1e-6)
    assert torch.allclose(found @ found.T, torch.eye(count, dtype=torch.float64), atol=1e-6)
    if name == "voynov":  # orthonormal as it is: nothing changes
        assert torch.allclose(found, raw.double(), atol=1e-5)
