from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_penalty.cli.main import main
from hessian_penalty.directions.directions import Directions
from hessian_penalty.reports.grids import GridPainter

EXAMPLE = f"{Path(__file__).parents[2] / 'examples' / 'bring_your_own_generator.py'}:toy_decoder"
TILE, STEP = 64, 66  # 8-pixel images, eight times enlarged, 2 pixels apart
# Pictures in one shade: z0 / 4 in class 0, z1 / 4 in class 1; z2 does nothing.
SHADES = """
import torch

class Shades:
    latent_dim = 3

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng)

    def sample_labels(self, count, rng=None):
        return torch.randint(2, (count,), generator=rng)

    def __call__(self, z, labels=0):
        shade = z.gather(1, torch.as_tensor(labels).expand(len(z))[:, None]) / 4
        return shade[:, :, None, None].expand(-1, 1, 8, 8)

def make():
    return Shades()
"""


@pytest.fixture
def shades(tmp_path):
    path = tmp_path / "shades.py"
    path.write_text(SHADES)
    return f"{path}:make"


@pytest.fixture
def axes(tmp_path):
    """Directions that are the three components."""
    Directions(torch.eye(3)).save(tmp_path / "axes.safetensors")
    return str(tmp_path / "axes.safetensors")


def shades_in(path, rows, columns):
    """The shade of each tile; the last row and column end at the picture's edge."""
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    top = picture.shape[0] - ((rows - 1) * STEP + TILE)
    left = picture.shape[1] - ((columns - 1) * STEP + TILE)
    found = np.zeros((rows, columns), int)
    for row in range(rows):
        for column in range(columns):
            tile = picture[top + row * STEP :, left + column * STEP :][:TILE, :TILE]
            assert tile.min() == tile.max()
            found[row, column] = tile[0, 0, 0]
    return found


def test_the_sheet_of_a_run_has_a_row_for_each_picture(small_run, tmp_path, capsys):
    Directions(torch.eye(4), activeness=torch.tensor([0.4, 0.3, 0.2, 0.1])).save(tmp_path / "d.safetensors")
    out = tmp_path / "new.png"
    call = ["edit", str(small_run.path), str(tmp_path / "d.safetensors"), "--index", "1", "--samples", "3"]
    assert main([*call, "--amounts", "-2", "2.5", "--out", str(out)]) == 0
    assert f"{out.resolve()}: 3 pictures along direction 1." in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        painter = GridPainter(
            3, 3, 16, 16, row_labels=["direction 1\n0.300"], column_labels=["original", "−2", "+2.5"], rows_a_label=3
        )
        assert picture.size == painter.size


def test_amounts_are_added_along_the_direction_and_no_other(shades, axes, tmp_path):
    out = tmp_path / "edit.png"
    call = ["edit", shades, axes, "--samples", "2", "--out", str(out)]
    assert main([*call, "--index", "0", "--amounts", "-1", "0", "2"]) == 0
    found = shades_in(out, 2, 4)
    z = torch.randn(1, 3, generator=torch.Generator().manual_seed(0))[0, 0].item()
    assert abs(found[0, 0] - (z / 4 + 1) * 127.5) <= 1  # the first picture is that of the seed
    assert (found[:, 2] == found[:, 0]).all()
    assert (abs(found[:, 1] - found[:, 0] + 127.5 / 4) <= 1).all()
    assert (abs(found[:, 3] - found[:, 0] - 127.5 / 2) <= 1).all()
    assert main([*call, "--index", "2"]) == 0
    unmoved = shades_in(out, 2, 5)
    assert (unmoved == found[:, :1]).all()


def test_labels(shades, axes, tmp_path):
    """Component 1 acts in class 1 alone; of eight random classes some are of each kind."""
    acts = {}
    for labels in ("0", "1", "random"):
        call = ["edit", shades, axes, "--index", "1", "--samples", "8", "--amounts", "2", "--labels", labels]
        assert main([*call, "--out", str(tmp_path / "edit.png")]) == 0
        found = shades_in(tmp_path / "edit.png", 8, 2)
        acts[labels] = int((found[:, 0] != found[:, 1]).sum())
    assert acts["0"] == 0
    assert acts["1"] == 8
    assert 0 < acts["random"] < 8


def test_the_same_seed_edits_the_same_pictures(shades, axes, tmp_path):
    pictures = []
    for seed in ("1", "1", "2"):
        assert main(["edit", shades, axes, "--seed", seed, "--out", str(tmp_path / "edit.png")]) == 0
        pictures.append((tmp_path / "edit.png").read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


def test_what_discover_wrote_is_taken(tmp_path):
    found = tmp_path / "found"
    call = ["discover", EXAMPLE, "--out", str(found), "--method", "coordinates", "--videos", "0"]
    assert main(call) == 0
    call = ["edit", EXAMPLE, str(found / "directions.safetensors"), "--out", str(tmp_path / "edit.png")]
    assert main([*call, "--samples", "1"]) == 0
    assert (tmp_path / "edit.png").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--out", "edit.jpg"], "--out must name a .png file, got edit.jpg."),
        (["--out", "edit"], "--out must name a .png file, got edit."),
        (["--index", "3"], "--index must be a finite number in [0, 2], got 3."),
        (["--index", "-1"], "--index must be a finite number in [0, 2], got -1."),
        (["--samples", "0"], "--samples must be a finite number at least 1, got 0"),
        (["--seed", "-1"], "--seed must be a finite number in [0, 1e+15], got -1"),
        (["--amounts", "nan"], "`amounts` must hold at least one number, and finite ones, got [nan]"),
        (["--amounts"], "`amounts` must hold at least one number, and finite ones, got none"),
        (["--latent-dim", "5"], "`latent_dim` is 5, but the generator's own is 3; leave it out."),
    ],
)
def test_mistakes_are_told_without_traceback(shades, axes, tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["edit", shades, axes, *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


def test_directions_of_another_size_and_of_no_file(axes, tmp_path, capsys):
    out = ["--out", str(tmp_path / "edit.png")]
    assert main(["edit", EXAMPLE, axes, *out]) == 2
    error = capsys.readouterr().err
    assert "`directions` have 3 components, but the generator takes latents of 6: they were found for another" in error
    assert main(["edit", EXAMPLE, str(tmp_path / "none.safetensors"), *out]) == 2
    assert "none.safetensors cannot be read as directions" in capsys.readouterr().err
    assert main(["edit", "nothing", axes, *out]) == 2
    assert "'nothing' is none of them. Expected a source: a run folder" in capsys.readouterr().err
    assert not (tmp_path / "edit.png").exists()


def test_help_says_where_directions_come_from(capsys):
    assert main(["edit", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "`discover`" in shown
    for option in ("--index", "--amounts", "--samples", "--out", "--latent-dim", "--labels", "--device", "--seed"):
        assert option in shown
