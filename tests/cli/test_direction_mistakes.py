"""Mistakes and odd generators at the command line of directions: told, not lost, and no traceback."""

from pathlib import Path

import pytest
import torch

from hessian_penalty.cli.main import main
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.reduction import drop_latents
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.directions.rotation import rotate_generator
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.sources import open_generator
from hessian_penalty.studies import discovery
from hessian_penalty.studies.discovery import discover_into

CLASSES = Path(__file__).with_name("class_generator.py").read_text()
TEXT = (
    CLASSES
    + """

class WithTensor(Classes):
    def forward(self, z, labels):
        of_class = self.embedding(labels)
        return torch.tanh(self.dense(torch.cat([of_class, z], dim=1))).unflatten(1, (3, 8, 8))

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 192), nn.Linear(4, 192)

    def forward(self, z):
        return torch.tanh(self.a(z) * self.b(z)).unflatten(1, (3, 8, 8))

def two():
    torch.manual_seed(0)
    return Two()
"""
)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "g.py").write_text(TEXT)
    return lambda name: f"{tmp_path / 'g.py'}:{name}"


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "G.pt"
    torch.jit.script(torch.nn.Sequential(torch.nn.Linear(4, 192), torch.nn.Unflatten(1, (3, 8, 8)))).save(path)
    return [str(path), "--latent-dim", "4", "--out", str(tmp_path / "out")]


@pytest.mark.parametrize("method", ["sefa", "ganspace"])
def test_discover_of_torchscript(script, method):
    assert main(["discover", *script, "--method", method, "--videos", "0"]) in (0, 2)  # no traceback


def test_rotate_of_torchscript(script):
    assert main(["rotate", *script, "--method", "random"]) == 0


def test_rotate_a_run_onto_directions_of_another_size(small_run, tmp_path, capsys):
    Directions(torch.eye(5)).save(tmp_path / "five.safetensors")
    call = ["rotate", str(small_run.path), "--out", str(tmp_path / "out")]
    assert main([*call, "--directions", str(tmp_path / "five.safetensors")]) == 2


def test_edit_with_a_class_out_of_range(source, tmp_path):
    Directions(torch.eye(4)).save(tmp_path / "d.safetensors")
    call = ["edit", source("Classes"), str(tmp_path / "d.safetensors"), "--out", str(tmp_path / "e.png")]
    assert main([*call, "--labels", "7"]) == 2


@pytest.mark.parametrize("method", ["random", "orojar"])
def test_a_class_number_reaches_an_embedding(source, tmp_path, method):
    found = tmp_path / "found"
    call = [source("WithTensor"), "--labels", "1"]
    assert main(["discover", *call, "--out", str(found), "--method", method, "--videos", "0"]) == 0
    axes = str(found / "directions.safetensors")
    assert main(["edit", *call[:1], axes, *call[1:], "--out", str(tmp_path / "e.png")]) == 0
    assert main(["rotate", *call, "--directions", axes, "--out", str(tmp_path / "turned")]) == 0


def test_given_directions_leave_nothing_to_a_method(source, small_run, tmp_path, capsys):
    Directions(torch.eye(4)).save(tmp_path / "d.safetensors")
    for name in (source("two"), str(small_run.path)):
        call = ["rotate", name, "--directions", str(tmp_path / "d.safetensors"), "--out", str(tmp_path / "out")]
        for more in (["--method", "sefa"], ["--set", "sketches=8"]):
            assert main([*call, *more]) == 2
            assert "with --directions there is none, leave them out" in capsys.readouterr().err


def test_set_with_an_equals_sign_is_not_lost(source, tmp_path):
    call = ["discover", source("Classes"), "--out", str(tmp_path / "out"), "--videos", "0"]
    status = main([*call, "--set", "sketches=8", "--set=held_out=4", "rounds=1"])
    assert (
        status == 2
        or Directions.load(tmp_path / "out" / "directions.safetensors").provenance["settings"]["held_out"] == 4
    )


def test_the_wrapper_line_with_keep_keeps(source, tmp_path, capsys):
    assert (
        main(
            [
                "rotate",
                source("two"),
                "--latent-dim",
                "4",
                "--method",
                "random",
                "--keep",
                "2",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    line = capsys.readouterr().out.splitlines()[-1].strip()
    names = {f.__name__: f for f in (Directions, rotate_generator, drop_latents, RotatedGenerator)}
    turned = eval(line, {**names, "torch": torch, "G": open_generator(source("two"), latent_dim=4)})
    assert turned.latent_dim == 2


@pytest.mark.parametrize("change", [{"count": 2}, {"subspace": slice(0, 2)}])
def test_pictures_of_another_count_or_subspace(tmp_path, monkeypatch, change):
    G = FunctionGenerator(lambda z: torch.tanh(z)[:, None, None, :].repeat(1, 3, 8, 1), 3)
    with monkeypatch.context() as patched:
        patched.setattr(discovery, "direction_sheet", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            discover_into(tmp_path / "out", G, method="random")
    with pytest.raises(UserError, match="of another search"):
        discover_into(tmp_path / "out", G, method="random", shown=0, **change)


def test_rotate_by_ganspace_is_refused_before_the_search(source, tmp_path, capsys):
    call = ["rotate", source("Classes"), "--method", "ganspace", "--set", "samples=40", "--out", str(tmp_path / "out")]
    assert main(call) == 2
    assert "Method 'ganspace' finds directions that are not orthogonal" in capsys.readouterr().err


def test_a_number_beyond_64_bits(source, tmp_path):
    call = ["discover", source("Classes"), "--out", str(tmp_path / "out"), "--set", "sketches=99999999999999999999"]
    assert main(call) == 2


def test_a_mistake_leaves_no_folder(source, tmp_path):
    assert main(["discover", source("Classes"), "--out", str(tmp_path / "out"), "--count", "9"]) == 2
    assert not (tmp_path / "out").exists()
