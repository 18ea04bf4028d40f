import csv
import html
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from hessian_penalty.cli import discover_command
from hessian_penalty.cli.main import main
from hessian_penalty.directions import discover, search_state
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import METHODS
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.studies import discovery

EXAMPLE = f"{Path(__file__).parents[2] / 'examples' / 'bring_your_own_generator.py'}:toy_decoder"
SEARCH = ["--set", "sketches=16", "held_out=8", "rounds=1"]
RESULTS = ["directions.csv", "directions.safetensors", "report.html"]
PICTURES = ["directions.png", "directions-000-001.mp4"]
# Of each method, settings with which it takes a moment, and progress updates after which to interrupt it.
QUICK = {
    "hessian": (["sketches=16", "held_out=8", "rounds=2", "batch_size=8"], 20),
    "hessian-gradient": (["steps=4", "batch_size=4"], 2),
    "orojar": (["samples=8", "held_out=4", "batch_size=8"], 2),
    "sefa": ([], None),
    "ganspace": (["samples=32", "batch_size=8"], 2),
    "voynov": (["steps=4", "batch_size=4"], 2),
    "coordinates": ([], None),
    "random": ([], None),
}
CLASSES = """
import torch
from torch import nn

class Classes(nn.Module):
    '''Three latents, a pixel each; the class says how much each of them does.'''

    latent_dim = 3

    def __init__(self):
        super().__init__()
        self.register_buffer("sizes", torch.tensor([[4.0, 1.0, 3.5], [1.0, 4.0, 3.5]]) / 20)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng)

    def sample_labels(self, count, rng=None):
        return torch.randint(2, (count,), generator=rng)

    def forward(self, z, labels=0):
        sizes = self.sizes[torch.as_tensor(labels).expand(len(z))]
        return (z * sizes)[:, None, None, :].expand(-1, 3, 8, -1)

def make():
    return Classes()
"""


def set_of(settings):
    return ["--set", *settings] if settings else []


def found_in(folder):
    return Directions.load(folder / "directions.safetensors")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Activeness from 40 samples in place of 300, videos of 4 frames in place of 90: what is found is the same."""
    monkeypatch.setattr(discover, "ACTIVENESS_SAMPLES", 40)
    monkeypatch.setattr(discovery, "direction_videos", partial(discovery.direction_videos, frames=4))


@pytest.fixture
def classes(tmp_path):
    """Source of a conditional generator whose coordinates, by activeness, are 0 2 1, or 1 2 0, or 2 first in a mix."""
    path = tmp_path / "classes.py"
    path.write_text(CLASSES)
    return f"{path}:make"


def test_a_run(small_run, tmp_path, capsys):
    out = tmp_path / "new" / "found"
    assert main(["discover", str(small_run.path), "--out", str(out), "--videos", "2", *SEARCH]) == 0
    assert names_in(out) == sorted(RESULTS + PICTURES)
    shown = capsys.readouterr().out
    assert "4 directions, the most active first:" in shown
    assert "effective latents: " in shown
    assert "held-out penalty, relative to before: " in shown
    assert f"{out.resolve() / 'report.html'}: open it in a browser." in shown
    found = found_in(out)
    assert torch.allclose(found.matrix @ found.matrix.T, torch.eye(4), atol=1e-5)
    assert found.activeness.tolist() == sorted(found.activeness.tolist(), reverse=True)
    assert found.provenance["seed"] == 0
    assert found.provenance["source"] == str(small_run.path)
    assert found.provenance["settings"]["sketches"] == 16
    rows = list(csv.DictReader((out / "directions.csv").read_text().splitlines()))
    assert torch.allclose(torch.tensor([[float(row[f"z{i}"]) for i in range(4)] for row in rows]), found.matrix)
    page = html.unescape((out / "report.html").read_text())
    assert "4 directions in a space of 4 latents, found by the method 'hessian'" in page
    assert f"Directions of {small_run.path}" in page
    assert page.count("data:video/mp4") == 1
    assert page.count("data:image/png") == 1


def test_the_example_of_the_documentation(tmp_path):
    assert main(["discover", EXAMPLE, "--out", str(tmp_path / "out"), "--videos", "0", *SEARCH]) == 0
    assert names_in(tmp_path / "out") == RESULTS
    assert found_in(tmp_path / "out").matrix.shape == (6, 6)


def test_torchscript_needs_latent_dim(tmp_path, capsys):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 3 * 8 * 8), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 8, 8))]
    torch.jit.script(torch.nn.Sequential(*layers)).save(tmp_path / "G.pt")
    call = ["discover", str(tmp_path / "G.pt"), "--out", str(tmp_path / "out"), "--videos", "0", *SEARCH]
    assert main(call) == 2
    assert "(--latent-dim on the command line)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*call, "--latent-dim", "4"]) == 0
    assert found_in(tmp_path / "out").matrix.shape == (4, 4)


def test_a_function_of_a_module_in_the_current_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    Path("classes_of_test_discover.py").write_text(CLASSES)
    try:
        assert main(["discover", "classes_of_test_discover:make", "--out", "out", "--videos", "0", *SEARCH]) == 0
    finally:
        sys.modules.pop("classes_of_test_discover", None)
    assert found_in(Path("out")).matrix.shape == (3, 3)


@pytest.mark.parametrize(("labels", "order"), [(None, [0, 2, 1]), ("0", [0, 2, 1]), ("1", [1, 2, 0]), ("random", [2])])
def test_labels_choose_the_class(classes, tmp_path, monkeypatch, labels, order):
    monkeypatch.setattr(discover, "ACTIVENESS_SAMPLES", 300)
    given = [] if labels is None else ["--labels", labels]
    call = ["discover", classes, "--out", str(tmp_path / "out"), "--method", "coordinates", "--videos", "0", *given]
    assert main(call) == 0
    found = found_in(tmp_path / "out")
    assert found.matrix.argmax(dim=1).tolist()[: len(order)] == order
    assert found.provenance["conditions"] == ({} if labels is None else {"labels": labels})
    if labels in ("0", "1"):
        assert torch.allclose(found.activeness, torch.tensor([4, 3.5, 1]).div(20).square() / 3, rtol=0.25)


@pytest.mark.parametrize("labels", ["1", "random"])
def test_labels_reach_the_pictures(classes, tmp_path, labels):
    call = ["discover", classes, "--out", str(tmp_path / "out"), "--labels", labels, "--method", "random"]
    assert main([*call, "--videos", "2"]) == 0
    assert names_in(tmp_path / "out") == sorted(RESULTS + PICTURES)


@pytest.mark.parametrize("method", METHODS)
def test_every_method(small_run, tmp_path, method):
    out = tmp_path / "out"
    call = ["discover", str(small_run.path), "--out", str(out), "--videos", "0", "--method", method]
    assert main([*call, *set_of(QUICK[method][0])]) == 0
    assert names_in(out) == RESULTS
    found = found_in(out)
    assert found.matrix.shape == (4, 4)
    assert found.provenance["method"] == method
    assert f"found by the method '{method}'" in html.unescape((out / "report.html").read_text())


def test_count_keeps_the_first(small_run, tmp_path):
    call = ["discover", str(small_run.path), "--videos", "0", *SEARCH]
    assert main([*call, "--out", str(tmp_path / "all")]) == 0
    assert main([*call, "--out", str(tmp_path / "two"), "--count", "2"]) == 0
    assert torch.equal(found_in(tmp_path / "two").matrix, found_in(tmp_path / "all").matrix[:2])


def test_subspace_leaves_the_other_components_alone(small_run, tmp_path):
    call = ["discover", str(small_run.path), "--out", str(tmp_path / "out"), "--videos", "0", *SEARCH]
    assert main([*call, "--subspace", "0:2"]) == 0
    matrix = found_in(tmp_path / "out").matrix
    assert matrix.shape == (2, 4)
    assert not matrix[:, 2:].any()
    assert torch.allclose(matrix @ matrix.T, torch.eye(2), atol=1e-5)


def test_fewer_pictures_than_directions(small_run, tmp_path):
    call = ["discover", str(small_run.path), "--out", str(tmp_path / "out"), "--method", "random", "--videos", "1"]
    assert main(call) == 0
    assert names_in(tmp_path / "out") == sorted([*RESULTS, "directions.png", "direction-000.mp4"])


def test_the_seed_counts(small_run, tmp_path):
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        call = ["discover", str(small_run.path), "--out", str(tmp_path / name), "--method", "random", "--videos", "0"]
        assert main([*call, "--seed", seed]) == 0
    a, b, c = (found_in(tmp_path / name).matrix for name in "abc")
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert found_in(tmp_path / "c").provenance["seed"] == 2


def test_a_folder_that_is_complete_is_left_alone(small_run, tmp_path, capsys):
    out = tmp_path / "out"
    call = ["discover", str(small_run.path), "--out", str(out), "--method", "random", "--videos", "0"]
    assert main(call) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(call) == 2
    error = capsys.readouterr().err
    assert f"{out / 'directions.safetensors'} exists already. Choose another --out, or move it away." in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def interrupting(at):
    """A progress bar whose update number `at` is an interruption."""
    left = iter([*[None] * (at - 1), KeyboardInterrupt])

    @contextmanager
    def progress_bar(title):
        def update(done, total):
            stop = next(left)
            if stop is not None:
                raise stop

        yield update

    return progress_bar


@pytest.mark.parametrize("method", [method for method, (_, at) in QUICK.items() if at])
def test_an_interrupted_search_goes_on(small_run, tmp_path, monkeypatch, capsys, method):
    """Repeated, it makes fewer images than a whole search, and finds the very same directions."""
    settings, at = QUICK[method]
    monkeypatch.setattr(search_state, "SECONDS_BETWEEN_SAVES", 0.0)
    images, forward = [], ProGANGenerator.forward
    monkeypatch.setattr(ProGANGenerator, "forward", lambda self, z: images.append(len(z)) or forward(self, z))

    def call(name):
        images.clear()
        given = ["--out", str(tmp_path / name), "--method", method, "--videos", "0", *set_of(settings)]
        return main(["discover", str(small_run.path), *given]), sum(images)

    status, whole = call("whole")
    assert status == 0
    with monkeypatch.context() as patched:
        patched.setattr(discover_command, "progress_bar", interrupting(at))
        status, first = call("out")
    assert status == 130
    assert "hessian-penalty discover: interrupted." in capsys.readouterr().err
    assert names_in(tmp_path / "out") == ["search.safetensors"]
    status, rest = call("out")
    assert status == 0
    assert first > 0
    assert rest < whole
    assert names_in(tmp_path / "out") == RESULTS
    for name in ("matrix", "activeness"):
        assert torch.equal(getattr(found_in(tmp_path / "out"), name), getattr(found_in(tmp_path / "whole"), name))


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        (["--seed", "1"], "random_state differ"),
        (["--subspace", "0:2"], "subspace differ"),
        (["--set", "steps=5"], "settings differ"),
        (["--method", "voynov", "--set", "steps=4"], "method, settings"),
    ],
)
def test_another_search_does_not_go_on_from_it(small_run, tmp_path, monkeypatch, capsys, change, differ):
    monkeypatch.setattr(search_state, "SECONDS_BETWEEN_SAVES", 0.0)
    call = ["discover", str(small_run.path), "--out", str(tmp_path / "out"), "--videos", "0"]
    with monkeypatch.context() as patched:
        patched.setattr(discover_command, "progress_bar", interrupting(2))
        assert main([*call, "--method", "hessian-gradient", "--set", "steps=4"]) == 130
    before = (tmp_path / "out" / "search.safetensors").read_bytes()
    changed = change if "--method" in change else ["--method", "hessian-gradient", *change]
    assert main([*call, *(changed if "--set" in changed else [*changed, "--set", "steps=4"])]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path / 'out' / 'search.safetensors'} holds another search: {differ}" in error
    assert "Repeat that search to finish it, or delete the file to begin anew." in error
    assert (tmp_path / "out" / "search.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--method", "closed-form"], "--method 'closed-form' is unknown; choose one of hessian, hessian-gradient"),
        (["--set", "sketch=3"], "--set 'sketch=3' is no setting of hessian, written NAME=VALUE; it has: sketches,"),
        (["--set", "sketches"], "--set 'sketches' is no setting of hessian, written NAME=VALUE"),
        (["--set", "sketches=many"], "--set sketches=many: 'many' is not a whole number"),
        (["--set", "sketches=0"], "sketches must be a finite number at least 1, got 0"),
        (["--count", "5"], "`count` must lie in [1, 4], the dimension searched, got 5"),
        (["--subspace", "coarse"], "`subspace` 'coarse' is unknown; this generator names: none."),
        (["--subspace", "2:2"], "`subspace` must name different components, each in [0, 3], got none."),
        (["--labels", "1"], "`labels` is neither an option here nor an argument of G"),
        (["--latent-dim", "5"], "`latent_dim` is 5, but the generator's own is 4; leave it out."),
        (["--device", "abacus"], "`device` 'abacus' cannot be used here"),
        (["--seed", "-1"], "--seed must be a finite number in [0, 1e+15], got -1"),
        (["--videos", "-1"], "--videos must be a finite number at least 0, got -1"),
        (["--extent", "0"], "--extent must be a finite number at least 1e-06, got 0"),
    ],
)
def test_mistakes_are_told_without_traceback(small_run, tmp_path, capsys, given, message):
    assert main(["discover", str(small_run.path), "--out", str(tmp_path / "out"), *given]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out" / "directions.safetensors").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [("7", "The generator fails at latents of the shape"), ("-7", "fails"), ("red", ""), ("²", "")],
)
def test_labels_that_are_none_are_told_without_traceback(classes, tmp_path, capsys, labels, message):
    call = ["discover", classes, "--out", str(tmp_path / "out"), "--videos", "0", f"--labels={labels}"]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_wrong_latent_dim_is_told_without_traceback(tmp_path, capsys):
    torch.jit.script(torch.nn.Linear(4, 3)).save(tmp_path / "G.pt")
    call = ["discover", str(tmp_path / "G.pt"), "--out", str(tmp_path / "out"), "--latent-dim", "5", "--videos", "0"]
    assert main(call) == 2
    assert "The generator fails at latents of the shape (2, 5)" in capsys.readouterr().err


def test_set_may_be_repeated(classes, tmp_path):
    call = ["discover", classes, "--set", "sketches=16", "--videos", "0", "--set", "held_out=8", "rounds=1"]
    assert main([*call, "--out", str(tmp_path / "out")]) == 0
    settings = found_in(tmp_path / "out").provenance["settings"]
    assert (settings["sketches"], settings["held_out"], settings["rounds"]) == (16, 8, 1)


def test_unknown_sources_and_folders_that_are_files(small_run, tmp_path, capsys):
    assert main(["discover", "nothing", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "'nothing' is none of them. Expected a source: a run folder" in error
    assert "path/to/file.py:function" in error
    (tmp_path / "file").touch()
    assert main(["discover", str(small_run.path), "--out", str(tmp_path / "file")]) == 2
    assert f"{tmp_path / 'file'} is a file; --out names a folder." in capsys.readouterr().err
    assert main(["discover", str(small_run.path)]) == 2
    assert main(["discover", str(small_run.path), "--out", str(tmp_path / "out"), "--sketches", "3"]) == 2
    assert not (tmp_path / "out").exists()


def test_random_labels_of_a_generator_that_draws_none(tmp_path, capsys):
    path = tmp_path / "classes.py"
    path.write_text(CLASSES.replace("def sample_labels", "def draw_labels"))
    assert main(["discover", f"{path}:make", "--out", str(tmp_path / "out"), "--labels", "random"]) == 2
    error = capsys.readouterr().err
    assert "`labels='random'` needs a generator with `sample_labels(count, rng)`, which Classes has not" in error


def test_help_names_the_methods(capsys):
    assert main(["discover", "--help"]) == 0
    words = capsys.readouterr().out.replace(",", " ").replace(":", " ").split()
    assert set(METHODS) <= set(words)


@pytest.mark.parametrize(
    ("text", "meant"),
    [("0:2", slice(0, 2)), (":2", slice(None, 2)), ("3:", slice(3, None)), (":", slice(None)), ("mid", "mid"),
     ("-1:2", "-1:2"), ("0:2:1", "0:2:1"), ("²:3", "²:3"), (None, None)],
)  # fmt: skip
def test_subspaces(text, meant):
    assert discover_command.parse_subspace(text) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("207", {"labels": 207}),
        ("-1", {"labels": -1}),
        ("random", {"labels": "random"}),
        ("²", {"labels": "²"}),
        (None, {}),
    ],
)
def test_labels(text, meant):
    assert discover_command.parse_labels(text) == meant


def test_the_summary_shows_twelve_values_and_the_penalty():
    directions = Directions(torch.eye(13), activeness=torch.arange(13, 0, -1.0), provenance={})
    first, second = discover_command.summary(directions).splitlines()
    assert first == "13 directions, the most active first: " + "  ".join(f"{13 - i}.0000" for i in range(12)) + "  …"
    assert second == f"effective latents: {91**2 / 819:.1f}"  # (Σ a)² / Σ a²
    found = Directions(torch.eye(1), activeness=torch.ones(1), provenance={"held_out_penalties": [1.0, 0.25, 0.5]})
    assert discover_command.summary(found).splitlines()[2] == "held-out penalty, relative to before: 0.250"


def test_errors_of_a_users_function_keep_its_words(tmp_path, capsys):
    (tmp_path / "broken.py").write_text("def make():\n    raise RuntimeError('no weights here')\n")
    assert main(["discover", f"{tmp_path / 'broken.py'}:make", "--out", str(tmp_path / "out")]) == 2
    assert "no weights here" in capsys.readouterr().err
