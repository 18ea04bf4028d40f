import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hessian_penalty.data.image_dataset import sha256
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.measures import PARTS
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.reports.figure_files import FigureFiles
from hessian_penalty.reports.figure_style import PAGE
from hessian_penalty.runs import RunFolder, write_json
from hessian_penalty.studies import figures
from hessian_penalty.studies.evaluation import MEASURES_VERSION, Evaluator
from hessian_penalty.studies.figure_models import FigureSettings
from hessian_penalty.studies.figures import write_figures
from hessian_penalty.studies.pruning import prune_run

QUICK = FigureSettings(samples=2, frames=0)
VALUES = {
    "activeness": (0.1, 0.4, 0.0, 0.2),
    "activeness_published": (0.1, 0.4, 0.0, 0.2),
    "effective_latents": 2.33,
    "hessian": np.eye(4).tolist(),
    "penalty": 0.0,
    "off_diagonal_share": 0.0,
}
AUDIT = {"factors": ["x"], "mutual_information": [[0.0], [0.9], [0.1], [0.25]], "latent_names": ["", "x", "", ""]}


@pytest.fixture
def copied_run(small_run, tmp_path):
    def copy(name, **changes):
        """A run whose measures.json holds an audit of its weights, unless those are changed."""
        shutil.copytree(small_run.path, tmp_path / name)
        run = RunFolder.open(tmp_path / name)
        weights = sha256(run.latest_checkpoint() / "ema.safetensors")
        key = {"version": MEASURES_VERSION, "weights_sha256": weights} | changes
        entry = {"part": "factor audit", "of": key, "values": {"audit": AUDIT}}
        write_json(run.path / "measures.json", {"measures": {}, "taken": [entry]})
        return run

    return copy


@pytest.fixture
def measured(monkeypatch):
    """Parts that were measured, which gives `VALUES`, and at how many Hessians."""
    parts = []
    for name, part in PARTS.items():

        def take(G, tools, progress, name=name, part=part):
            parts.append((name, tools.protocol.hessian_samples))
            return {key: VALUES.get(key) for key in part.gives}

        monkeypatch.setitem(PARTS, name, replace(part, take=take))
    return parts


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are not drawn, for tests of what comes before: name → how they would be."""
    asked = {}

    def write_figure(make, folder, name):
        asked[(folder / name).relative_to(folder.parent).as_posix()] = make
        return FigureFiles(folder / name, ("-light.png", "-dark.png"))

    monkeypatch.setattr(figures, "write_figure", write_figure)
    return asked


def names(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def both(stem, *kinds):
    return {f"{stem}-{theme}.{kind}" for theme in ("light", "dark") for kind in kinds}


def test_all_figures_of_two_runs(small_run, copied_run, tmp_path, measured):
    """One of them has an audit."""
    other, told = copied_run("other"), []
    out = tmp_path / "figures"
    found = write_figures([small_run, other], out, QUICK, progress=lambda *update: told.append(update))
    expected = {"index.html"} | both("activeness", "png", "svg")
    expected |= both("pixel-hessians", "png", "svg") | both("penalty-maps", "png", "svg")
    for run in ("vanilla", "other"):
        expected |= both(f"{run}/samples", "png") | both(f"{run}/traversal", "png")
        expected |= both(f"{run}/activeness", "png", "svg") | both(f"{run}/hessian", "png", "svg")
    expected |= both("other/factors", "png", "svg")
    written = set(names(out))
    curves = {name for name in written if name.startswith("training-")}
    assert both("training-critic-loss", "png", "svg") <= curves
    assert written - curves == expected
    assert {path.relative_to(out).as_posix() for files in found.figures for path in files.paths} | {
        "index.html"
    } == written
    index = found.index.read_text()
    assert all(name in index for name in written - {"index.html"})
    assert found.notes == (
        f"vanilla: no factor map; `hessian-penalty evaluate {small_run.path}` makes the audit that it shows, where the "
        "data has ground truth.",
    )
    assert found.notes[0].split("`")[0] in index
    assert measured == [("activeness", 2), ("Hessians", 2)] * 2
    assert [done for done, *_ in told] == list(range(10)) and {total for _, total, _ in told} == {9}
    assert told[0][2] == "vanilla: measuring"


def test_what_was_measured_by_the_same_protocol_is_taken(copied_run, tmp_path, measured, undrawn):
    runs = [copied_run("a"), copied_run("b")]
    for _ in range(2):
        found = write_figures(runs, tmp_path / "figures", QUICK)
    assert len(measured) == 4
    bars = undrawn["figures/activeness"](PAGE).axes[0].patches
    assert [bar.get_height() for bar in bars] == 2 * sorted(VALUES["activeness"], reverse=True)
    assert found.notes == ()
    write_figures(runs, tmp_path / "figures", FigureSettings(samples=3, frames=0))
    assert measured[4:] == [("Hessians", 3)] * 2


def test_figures_use_what_evaluate_left(copied_run, tmp_path, measured, undrawn):
    run = copied_run("a")
    Evaluator(MeasureProtocol(), None)(run)
    count = len(measured)
    write_figures([run], tmp_path / "figures", FigureSettings(frames=0))
    assert len(measured) == count


@pytest.mark.parametrize("changes", [{"weights_sha256": "x"}, {"version": -1}])
def test_an_audit_of_other_weights_or_versions_is_not_shown(copied_run, tmp_path, measured, undrawn, changes):
    found = write_figures([copied_run("a", **changes)], tmp_path / "figures", QUICK)
    assert "no factor map" in "".join(found.notes)


def test_the_factor_map_of_one_run(copied_run, tmp_path, measured):
    run, out = copied_run("a"), tmp_path / "figures"
    write_figures([run], out, QUICK)
    rows = (out / "a/factors-light.svg").read_text()
    assert rows.index("z1 = x") < rows.index(">z3<") < rows.index(">z0<"), "by activeness"
    assert not (out / "activeness-light.png").exists(), "one model has no comparison"


def test_damaged_measures_are_taken_anew(copied_run, tmp_path, measured, undrawn):
    damaged = copied_run("damaged")
    (damaged.path / "measures.json").write_text('{"taken": 3}')
    write_figures([damaged], tmp_path / "figures", QUICK)
    assert len(measured) == 2


def test_pictures_are_those_of_the_seed_on_the_ground_of_the_theme(copied_run, tmp_path, undrawn):
    run, sheets = copied_run("a"), []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        write_figures([run], out, FigureSettings(seed=seed, samples=2, frames=0))
        sheets.append(np.asarray(Image.open(out / "a/samples-dark.png").convert("RGB")))
    assert (sheets[0] == sheets[1]).all() and (sheets[0] != sheets[2]).any()
    assert sheets[0].shape == (4 * 132 - 4, 8 * 132 - 4, 3)
    assert (sheets[0][:, 128:132] == (13, 17, 23)).all()


def test_the_video_and_a_run_without_curves(copied_run, tmp_path, undrawn):
    run = copied_run("a")
    run.metrics_path.unlink()
    found = write_figures([run], tmp_path / "figures", FigureSettings(samples=2, frames=2))
    assert (tmp_path / "figures/a/traversal.mp4").stat().st_size > 1000
    assert "a: no training curves; it has no metrics.jsonl." in found.notes
    assert not [name for name in undrawn if "training" in name]


def test_a_single_latent_has_no_penalty(small_run, tmp_path, undrawn):
    prune_run(small_run, tmp_path / "one", below=0.999999)
    found = write_figures([RunFolder.open(tmp_path / "one")], tmp_path / "figures", QUICK)
    assert "one: no penalty of pixels; a single latent has none whose effect it could alter." in found.notes
    assert not {"figures/pixel-hessians", "figures/penalty-maps"} & set(undrawn)


def test_errors(small_run, tmp_path):
    with pytest.raises(UserError, match="Name at least one run"):
        write_figures([], tmp_path / "figures")
    with pytest.raises(UserError, match="named twice"):
        write_figures([small_run, small_run], tmp_path / "figures")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="file is a file: name a folder"):
        write_figures([small_run], tmp_path / "file")
    untrained = RunFolder.open(shutil.copytree(small_run.path, tmp_path / "untrained"))
    shutil.rmtree(untrained.path / "checkpoints")
    with pytest.raises(UserError, match="has no checkpoint under .* Train it first"):
        write_figures([small_run, untrained], tmp_path / "figures")
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("field", "value", "low"), [("seed", -1, "0"), ("samples", 1, "2"), ("batch_size", 1, "2"), ("frames", 1, "2")]
)
def test_settings_in_range(field, value, low):
    with pytest.raises(UserError, match=rf"{field} must be a finite number (at least |in .){low}.*, got {value}"):
        FigureSettings(**{field: value})
