import av
import pytest

from hessian_penalty.cli.main import main
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.runs import RunFolder

TEXT = """
import torch

class Shades:
    latent_dim = 3

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng)

    def __call__(self, z, labels=None):
        if labels is not None:
            assert labels.shape == (len(z),), labels
            z = z * labels[:, None]
        strength = torch.tensor([0.1, 0.9, 0.4])
        return torch.tanh(z * strength)[:, :, None, None].expand(-1, -1, 8, 8)
"""


@pytest.fixture
def shades(tmp_path, monkeypatch):
    (tmp_path / "g.py").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return f"{tmp_path / 'g.py'}:Shades"


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_traverse_films_the_most_active_latents(shades, tmp_path, capsys):
    assert main(["traverse", shades, "--rows", "2", "--columns", "3", "--frames", "6", "--labels", "1"]) == 0
    frames = decoded(tmp_path / "traversal.mp4")
    assert len(frames) == 6
    assert frames[0].shape[1] > frames[0].shape[0] * 1.5  # 3 columns and a label, 2 rows
    assert frames[0].std() > 0 and abs(frames[0].astype(float) - frames[3]).max() > 100
    assert "traversal.mp4: latents 1, 2 in 3 pictures." in capsys.readouterr().out


def test_a_generator_that_fails_is_told_without_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "fails.py").write_text("import torch\n\ndef G():\n    return torch.nn.Linear(7, 192)\n")
    monkeypatch.chdir(tmp_path)
    assert main(["traverse", f"{tmp_path / 'fails.py'}:G", "--latent-dim", "5"]) == 2
    assert "The generator fails at latents of the shape (64, 5)" in capsys.readouterr().err


def test_the_published_numbers_are_the_defaults(small_run, tmp_path):
    out = tmp_path / "t.mp4"
    assert main(["traverse", str(small_run.path), "--out", str(out)]) == 0
    assert len(decoded(out)) == 90


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--out", "t.gif"], "--out must name an .mp4 file, got t.gif."),
        (["--out", "there.mp4"], "there.mp4 exists already. Choose another --out, or move it away."),
        (["--rows", "0"], "--rows must be a finite number at least 1, got 0"),
        (["--frames", "1"], "--frames must be a finite number at least 2, got 1"),
        (["--extent", "nan"], "--extent must be a finite number"),
        (["--labels", "random"], "`labels='random'` needs a generator with `sample_labels(count, rng)`"),
        (["--latent-dim", "5"], "`latent_dim` is 5, but the generator's own is 3; leave it out."),
    ],
)
def test_mistakes_in_traverse(shades, tmp_path, capsys, given, message):
    (tmp_path / "there.mp4").write_text("kept")
    assert main(["traverse", shades, *given]) == 2
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == ["there.mp4"]


def test_prune_tells_what_goes(small_run, tmp_path, capsys):
    out = tmp_path / "pruned"
    assert main(["prune", str(small_run.path), "--out", str(out), "--below", "0.999999"]) == 0
    told = capsys.readouterr().out
    assert told.count("left out") == 3 and f"{out}: 1 of 4 latents." in told
    assert "of the distance of two random images" in told
    assert load_generator(RunFolder.open(out)).latent_dim == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--below", "2"], "--below must be a finite number in [0, 1], got 2"),
        (["--below", "0"], "has no latent below 0 of the most active one"),
        (["--seed", "-1"], "--seed must be a finite number in [0, 1e+15], got -1"),
    ],
)
def test_mistakes_in_prune(small_run, tmp_path, capsys, given, message):
    assert main(["prune", str(small_run.path), "--out", str(tmp_path / "pruned"), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "pruned").exists()
    assert main(["prune", str(tmp_path / "nothing"), "--out", str(tmp_path / "pruned")]) == 2
