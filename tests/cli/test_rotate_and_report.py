import json
from pathlib import Path

import pytest
import torch

from hessian_penalty.cli import rotate_command
from hessian_penalty.cli.main import main
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import METHODS
from hessian_penalty.directions.reduction import drop_latents
from hessian_penalty.directions.rotation import rotate_generator
from hessian_penalty.generators.loading import load_generator, load_module
from hessian_penalty.generators.sources import open_generator
from hessian_penalty.runs import RunFolder

SEARCH = ["--set", "sketches=16", "held_out=8", "rounds=1"]
PROTOCOL = [
    *("--protocol.activeness-samples", "4"),
    *("--protocol.hessian-samples", "2"),
    *("--protocol.frechet-images", "8"),
    *("--protocol.path-length-pairs", "0"),
    *("--protocol.predictability-pairs", "0"),
    *("--protocol.audit-images", "0"),
    *("--protocol.batch-size", "16"),
]


def test_rotate_then_report(small_run, tmp_path, capsys):
    rotated, page = tmp_path / "rotated", tmp_path / "page.html"
    assert main(["rotate", str(small_run.path), "--out", str(rotated), *SEARCH]) == 0
    shown = capsys.readouterr().out
    assert "effective latents" in shown
    assert "held-out penalty, relative to before" in shown
    assert main(["report", str(small_run.path), str(rotated), "--out", str(page), *PROTOCOL]) == 0
    shown = capsys.readouterr().out
    assert "Fréchet distance" in shown
    assert "vanilla" in page.read_text()
    measures = json.loads((rotated / "measures.json").read_text())["measures"]
    assert measures["frechet"] is not None  # the data set was found through the run's provenance
    assert len(measures["activeness"]) == 4


def test_mistakes_are_told_without_traceback(small_run, tmp_path, capsys):
    assert main(["rotate", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["rotate", str(small_run.path), "--out", str(small_run.path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["report", str(small_run.path), "--out", str(small_run.path)]) == 2
    assert "is a folder: name the page" in capsys.readouterr().err
    assert small_run.config_path.exists()
    assert main(["report"]) == 2
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "z"), "--seed", str(10**20)]) == 2
    assert "--seed must be a finite number" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["report", str(small_run.path), "--data", str(tmp_path)]) == 2
    assert "is not an image data set" in capsys.readouterr().err
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "y"), "--set", "sketches=0"]) == 2
    error = capsys.readouterr().err
    assert "sketches must be a finite number at least 1, got 0" in error
    assert "Traceback" not in error


def random_directions(n, path, seed=0):
    """A file of n orthonormal rows."""
    rows = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed)))[0]
    Directions(rows).save(path)
    return rows


def normal(n, count=16, seed=3):
    return torch.randn(count, n, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def source(tmp_path):
    """From the name of a function below to its source."""
    path = tmp_path / "generators.py"
    path.write_text(GENERATORS)
    return lambda name: f"{path}:{name}"


CLASSES = Path(__file__).with_name("class_generator.py").read_text()
GENERATORS = (
    CLASSES
    + """

class Dense(nn.Sequential):
    latent_dim = 4

    def __init__(self, latents=4):
        super().__init__(nn.Linear(latents, 192), nn.Tanh(), nn.Unflatten(1, (3, 8, 8)))

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 4, generator=rng)

class Uniform(Dense):
    def sample_latents(self, count, rng=None):
        return 2 * torch.rand(count, 4, generator=rng) - 1

class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 192), nn.Linear(4, 192)

    def forward(self, z):
        return torch.tanh(self.a(z) * self.b(z)).unflatten(1, (3, 8, 8))

def seeded(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind()

def dense(): return seeded(Dense)
def uniform(): return seeded(Uniform)
def classes(): return seeded(Classes)
def two_readers(): return seeded(TwoReaders)
def function(): return lambda z: torch.tanh(z @ torch.ones(4, 192) + z[:, :1] * z[:, 1:2]).unflatten(1, (3, 8, 8))
def plain(): return seeded(lambda: nn.Sequential(*Dense(), nn.Tanh()))
"""
)


def test_a_run_onto_given_directions(small_run, tmp_path, capsys):
    rows = random_directions(4, tmp_path / "given.safetensors")
    out = tmp_path / "rotated"
    given = ["--directions", str(tmp_path / "given.safetensors")]
    assert main(["rotate", str(small_run.path), "--out", str(out), *given]) == 0
    shown = capsys.readouterr().out
    assert f"{out}: 4 latents, in " in shown
    assert f"Next: hessian-penalty report {small_run.path} {out} --out report.html" in shown
    assert "effective latents" not in shown  # not measured
    before, after = load_generator(small_run), load_generator(RunFolder.open(out))
    w = normal(4)
    assert torch.allclose(after(w), before(w @ rows), atol=1e-4)
    assert torch.equal(Directions.load(out / "directions.safetensors").matrix, rows)


@pytest.mark.parametrize("method", ["sefa", "random"])
def test_a_run_by_another_method(small_run, tmp_path, method):
    out = tmp_path / "rotated"
    assert main(["rotate", str(small_run.path), "--out", str(out), "--method", method]) == 0
    found = Directions.load(out / "directions.safetensors")
    assert found.provenance["method"] == method
    before, after = load_generator(small_run), load_generator(RunFolder.open(out))
    assert torch.allclose(after(normal(4)), before(normal(4) @ found.matrix), atol=1e-4)
    if method == "sefa":  # its directions are known: eigenvectors of W^T W
        W = before.first_linear.weight.double()
        turned = found.matrix.double() @ W.T @ W @ found.matrix.double().T
        assert torch.allclose(turned, torch.diag(turned.diagonal()), atol=1e-4 * float(turned.max()))


def test_a_run_with_fewer_latents(small_run, tmp_path, capsys):
    """Images of w are those of the reduced generator; without its normalisation they would be those of w D."""
    rows = random_directions(4, tmp_path / "given.safetensors")
    out = tmp_path / "reduced"
    given = ["--directions", str(tmp_path / "given.safetensors"), "--keep", "3"]
    assert main(["rotate", str(small_run.path), "--out", str(out), *given]) == 0
    shown = capsys.readouterr().out
    assert f"{out}: 3 latents, in " in shown
    assert "Left out, the other latents are 0: images change by " in shown
    assert "% of the distance of two random images." in shown
    run = RunFolder.open(out)
    assert run.config()["generator"]["latent_dim"] == 3
    assert run.config()["provenance"]["reduced"]["keep"] == 3
    assert not list(out.rglob("*_optimizer.safetensors"))
    assert list(small_run.path.rglob("*_optimizer.safetensors"))
    w = normal(3)
    for weights in ("ema", "generator"):
        G, reduced = load_generator(small_run, weights), load_generator(run, weights)
        assert reduced.latent_dim == 3
        assert reduced.sample_latents(2).shape == (2, 3)
        expected, _ = drop_latents(G, Directions(rows), 3, rng=torch.Generator())
        assert torch.allclose(reduced(w), expected(w), atol=1e-5)
        G.normalize_latent = reduced.normalize_latent = False
        assert torch.allclose(reduced(w), G(w @ rows[:3]), atol=1e-4)


def test_a_module_gets_turned_weights(source, tmp_path, capsys):
    rows = random_directions(4, tmp_path / "given.safetensors")
    out = tmp_path / "turned"
    given = ["--directions", str(tmp_path / "given.safetensors")]
    assert main(["rotate", source("dense"), "--out", str(out), *given]) == 0
    shown = capsys.readouterr().out
    assert "generator.safetensors holds the weights of your module" in shown
    assert f"{out}/directions.safetensors says what each latent is." in shown
    assert "Note" not in shown
    assert sorted(path.name for path in out.iterdir()) == [
        "directions.csv", "directions.safetensors", "generator.safetensors",
    ]  # fmt: skip
    G, turned = (open_generator(source("dense")) for _ in range(2))
    load_module(turned, out / "generator.safetensors")
    w = normal(4)
    assert torch.allclose(turned(w), G(w @ rows), atol=1e-5)
    assert not torch.allclose(turned(w), G(w), atol=1e-2)


def test_a_module_that_is_searched(source, tmp_path, capsys):
    out = tmp_path / "turned"
    assert main(["rotate", source("dense"), "--out", str(out), *SEARCH]) == 0
    assert "held-out penalty, relative to before: " in capsys.readouterr().out
    found = Directions.load(out / "directions.safetensors")
    assert found.provenance["settings"]["sketches"] == 16
    G, turned = (open_generator(source("dense")) for _ in range(2))
    load_module(turned, out / "generator.safetensors")
    assert torch.allclose(turned(normal(4)), G(normal(4) @ found.matrix), atol=1e-5)


@pytest.mark.parametrize("labels", ["1", "random"])
def test_a_module_with_classes(source, tmp_path, labels):
    out = tmp_path / "turned"
    call = ["rotate", source("classes"), "--out", str(out), "--method", "random", "--labels", labels]
    assert main(call) == 0
    G, turned = (open_generator(source("classes")) for _ in range(2))
    load_module(turned, out / "generator.safetensors")
    matrix, classes = Directions.load(out / "directions.safetensors").matrix, torch.arange(16) % 2
    assert torch.allclose(turned(normal(4), labels=classes), G(normal(4) @ matrix, labels=classes), atol=1e-5)


def test_a_module_with_fewer_latents(source, tmp_path, capsys):
    rows = random_directions(4, tmp_path / "given.safetensors")
    out = tmp_path / "turned"
    given = ["--directions", str(tmp_path / "given.safetensors"), "--latent-dim", "4", "--keep", "2"]
    assert main(["rotate", source("plain"), "--out", str(out), *given]) == 0
    shown = capsys.readouterr().out
    assert f"{out}: 2 latents, in " in shown
    assert "Left out, the other latents are 0" in shown
    G = open_generator(source("plain"), latent_dim=4)
    reduced = torch.nn.Sequential(torch.nn.Linear(2, 192), *list(G.function)[1:])
    load_module(reduced, out / "generator.safetensors")
    assert torch.allclose(reduced(normal(2)), G(normal(2) @ rows[:2]), atol=1e-5)


@pytest.mark.parametrize("name", ["two_readers", "function"])
def test_what_no_single_layer_reads_gets_a_wrapper(source, tmp_path, capsys, name):
    """The line that is printed, run as it stands, is the turned generator."""
    out = tmp_path / "turned"
    call = ["rotate", source(name), "--out", str(out), "--latent-dim", "4", "--method", "random"]
    assert main(call) == 0
    shown = capsys.readouterr().out
    assert "do not fit into one layer that reads the latents, so the turned generator is a wrapper:" in shown
    assert sorted(path.name for path in out.iterdir()) == ["directions.csv", "directions.safetensors"]
    line = next(line for line in shown.splitlines() if "rotate_generator(" in line)
    G = open_generator(source(name), latent_dim=4)
    turned = eval(line.strip(), {"rotate_generator": rotate_generator, "Directions": Directions, "G": G})
    matrix = Directions.load(out / "directions.safetensors").matrix
    assert torch.allclose(turned(normal(4)), G(normal(4) @ matrix), atol=1e-5)


def test_uniform_latents_get_a_note(source, tmp_path, capsys):
    call = ["rotate", source("uniform"), "--out", str(tmp_path / "turned"), "--method", "random"]
    assert main(call) == 0
    note = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Note: "))
    assert "The latents look uniform, so that turned ones lie in a rotated cube" in note
    assert (tmp_path / "turned" / "generator.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("dense", ["--method", "closed-form"], "--method 'closed-form' is unknown; choose one of hessian, "),
        ("dense", ["--set", "sketch=3"], "--set 'sketch=3' is no setting of hessian, written NAME=VALUE; it has: ske"),
        ("dense", ["--set", "sketches"], "--set 'sketches' is no setting of hessian, written NAME=VALUE"),
        ("dense", ["--set", "sketches=many"], "--set sketches=many: 'many' is not a whole number"),
        ("dense", ["--method", "random", "--keep", "5"], "`keep` must lie in [1, 4], the number of latents, got 5"),
        ("dense", ["--method", "random", "--keep", "0"], "`keep` must lie in [1, 4], the number of latents, got 0"),
        ("dense", ["--labels", "1"], "`labels` is neither an option here nor an argument of G"),
        ("dense", ["--directions", "none.safetensors"], "none.safetensors cannot be read as directions"),
        (
            "dense",
            ["--method", "voynov", "--set", "orthonormal=false"],
            "Method 'voynov' finds directions that are not or",
        ),
        ("function", [], "`latent_dim` is needed for a function"),
        ("missing", [], "missing does not exist in "),
    ],
)
def test_mistakes_about_any_generator(source, tmp_path, capsys, name, given, message):
    assert main(["rotate", source(name), "--out", str(tmp_path / "turned"), *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "turned").exists()


def test_directions_that_do_not_fit(small_run, source, tmp_path, capsys):
    random_directions(5, tmp_path / "five.safetensors")
    Directions(torch.eye(4)[:3]).save(tmp_path / "three.safetensors")
    wrong = [
        (str(small_run.path), "three", [], "A rotation needs as many directions as latents (4), got 3"),
        (source("dense"), "three", [], "A rotation needs as many directions as latents (4), got 3"),
        (source("dense"), "five", [], "must have 4 components like the generator's latents, got 5"),
        (
            str(small_run.path),
            "five",
            ["--keep", "2"],
            "have 5 components, but the run's latents have 4: they were found",
        ),
    ]
    for given, name, options, message in wrong:
        call = ["rotate", given, "--out", str(tmp_path / "turned"), *options]
        assert main([*call, "--directions", str(tmp_path / f"{name}.safetensors")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert not (tmp_path / "turned").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--latent-dim", "4"], "--latent-dim is not for a run, which knows its latents and has no classes; leave it"),
        (["--labels", "1"], "--labels is not for a run"),
        (["--device", "meta"], "--device is not for a run, which is turned on the CPU; leave it out."),
        (["--keep", "5"], "`keep` must lie in [1, 4], the number of latents, got 5"),
        (["--method", "closed-form"], "--method 'closed-form' is unknown"),
    ],
)
def test_mistakes_about_a_run(small_run, tmp_path, capsys, given, message):
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "turned"), *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "turned").exists()


def test_what_cannot_be_written_is_not_searched_for(source, tmp_path, monkeypatch):
    monkeypatch.setattr(rotate_command, "discover", lambda *a, **k: pytest.fail("searched"))
    assert main(["rotate", source("dense"), "--out", str(tmp_path)]) == 2
    assert main(["rotate", source("dense"), "--out", str(tmp_path / "out"), "--keep", "5"]) == 2


def test_the_provenance_says_what_was_searched(source, tmp_path):
    call = ["rotate", source("classes"), "--out", str(tmp_path / "out"), "--method", "random", "--seed", "6"]
    assert main([*call, "--labels", "1"]) == 0
    provenance = Directions.load(tmp_path / "out" / "directions.safetensors").provenance
    assert (provenance["method"], provenance["seed"], provenance["source"]) == ("random", 6, source("classes"))
    assert "labels" in str(provenance["conditions"])


def test_set_may_be_repeated(source, tmp_path):
    call = ["rotate", source("dense"), "--set", "sketches=16", "--seed", "1", "--set", "held_out=8", "rounds=1"]
    assert main([*call, "--out", str(tmp_path / "out")]) == 0
    provenance = Directions.load(tmp_path / "out" / "directions.safetensors").provenance
    settings = provenance["settings"]
    assert (settings["sketches"], settings["held_out"], settings["rounds"]) == (16, 8, 1)


def test_other_sources_and_folders(source, tmp_path, capsys):
    assert main(["rotate", "nothing", "--out", str(tmp_path / "turned")]) == 2
    assert "'nothing' is none of them. Expected a source: a run folder" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    assert main(["rotate", source("dense"), "--out", str(tmp_path / "there"), "--method", "random"]) == 2
    assert f"{tmp_path / 'there'} exists already. Choose another --out, or move it away." in capsys.readouterr().err
    assert not list((tmp_path / "there").iterdir())


def test_help_of_rotate_names_the_methods(capsys):
    assert main(["rotate", "--help"]) == 0
    assert set(METHODS) <= set(capsys.readouterr().out.replace(",", " ").replace(":", " ").replace(".", " ").split())
