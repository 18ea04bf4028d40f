import json
import shutil

import numpy as np
import pytest

from hessian_penalty.cli import study_command
from hessian_penalty.cli.evaluate_command import notes
from hessian_penalty.cli.main import main
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, write_json
from hessian_penalty.studies.evaluation import Evaluator
from hessian_penalty.studies.study import Study
from hessian_penalty.studies.study_table import StudyTable

FEW = [
    *("--protocol.activeness-samples", "4"),
    *("--protocol.hessian-samples", "2"),
    *("--protocol.frechet-images", "8"),
    *("--protocol.path-length-pairs", "0"),
    *("--protocol.predictability-pairs", "0"),
    *("--protocol.audit-images", "0"),
]


@pytest.fixture
def copied_run(small_run, tmp_path):
    shutil.copytree(small_run.path, tmp_path / "copy")
    return RunFolder.open(tmp_path / "copy")


def test_runs_stand_side_by_side(small_run, copied_run, tmp_path, capsys):
    out = tmp_path / "values.json"
    assert main(["evaluate", str(small_run.path), str(copied_run.path), "--out", str(out), *FEW]) == 0
    shown = capsys.readouterr().out
    assert "vanilla" in shown and "copy" in shown
    assert "Effective latents ↓" in shown and "Kernel distance ↓" in shown and "Path length" not in shown
    assert "Protocol own: 8 images, 0 pairs, 2 Hessians; seed 0." in shown
    assert "no more images than features make the Fréchet distance too large" in shown.replace("\n", " ")
    values = json.loads(out.read_text())
    assert values["vanilla"] == values["copy"]  # the same weights
    assert values["copy"] == json.loads((copied_run.path / "measures.json").read_text())["measures"]


def test_the_published_protocol_is_taken_and_flags_change_it(small_run, monkeypatch, capsys):
    seen = []

    def refuse(self, run, tell=None):
        seen.append(self.protocol)
        raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "__call__", refuse)
    words = ["evaluate", str(small_run.path), "--protocol", "published", "--protocol.hessian-samples", "7"]
    assert main(words) == 130
    assert (seen[0].frechet_images, seen[0].hessian_samples, seen[0].path_length_pixels) == (50_000, 7, 256)


def test_latents_are_named_and_the_probe_is_judged(small_dataset):
    evaluator = Evaluator(MeasureProtocol(frechet_images=0), small_dataset, 16)
    audit = {"latent_names": ["", "hue"], "factors": ["x", "hue"], "probe_scores": [0.987, 0.5]}
    lines = notes({"a": {"audit": audit}, "b": {"audit": audit | {"latent_names": ["", ""]}}, "c": {}}, evaluator)
    assert lines == [
        "a: z1 = hue",
        "b: no latent carries one factor",
        "The probe behind the factor audit, on held-out real images: x 0.987, hue 0.500.",
        "Protocol own: 0 images, 2,000 pairs, 64 Hessians; seed 0.",
    ]
    assert "probe" not in vars(evaluator.tools) and "extractor" not in vars(evaluator.tools), "nothing is made for it"


def test_mistakes_are_told(small_run, copied_run, tmp_path, capsys):
    def told(*words):
        assert main([str(word) for word in words]) == 2
        return capsys.readouterr().err

    assert "Name at least one run to evaluate" in told("evaluate")
    assert "is not a run" in told("evaluate", tmp_path)
    assert "A run is named twice" in told("evaluate", small_run.path, small_run.path, *FEW)
    assert "--protocol must be quick or published, got 'fast'" in told("evaluate", "x", "--protocol", "fast")
    assert "must be 0, which leaves it out" in told("evaluate", "x", "--protocol.audit-images", "5")
    shutil.rmtree(copied_run.path / "checkpoints")
    assert "has no checkpoint under" in told("evaluate", copied_run.path, *FEW)
    assert "Name a preset: one of clevr-simple-tiny" in told("study")
    assert "Unknown preset 'clevr'" in told("study", "clevr", "--out", tmp_path / "s")
    assert "--arms takes one or more of vanilla" in told("study", "clevr-simple-tiny", "--arms", "vanila")


def test_runs_of_two_resolutions_are_refused(small_run, copied_run, capsys):
    config = copied_run.config()
    config["generator"]["channels"] = config["generator"]["channels"][:2]
    write_json(copied_run.config_path, config)
    assert main(["evaluate", str(small_run.path), str(copied_run.path), *FEW]) == 2
    assert "images of [8, 16] pixels; take equal ones together" in capsys.readouterr().err


def test_data_of_another_resolution_is_refused(small_run, tmp_path, capsys):
    """A generator of 16 pixels, real pictures of 8."""
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "images.npy", np.zeros((4, 8, 8, 3), np.uint8))
    ImageDataset.finish(tmp_path / "data", [], name="black")
    assert main(["evaluate", str(small_run.path), "--data", str(tmp_path / "data"), *FEW]) == 2
    assert "8-pixel images, which cannot be shrunk to 16" in capsys.readouterr().err


def test_without_data_the_latents_are_measured_all_the_same(copied_run, tmp_path, capsys):
    config = copied_run.config()
    config["provenance"] = None
    write_json(copied_run.config_path, config)
    assert main(["evaluate", str(copied_run.path), *FEW]) == 0
    shown = capsys.readouterr()
    assert "No distance to the data: " in shown.err and "Give the data set by --data" in shown.err
    assert "Effective latents" in shown.out and "Fréchet" not in shown.out


def test_study_prints_its_table(tmp_path, monkeypatch, capsys):
    """The study itself is tested elsewhere; here what the command makes of its flags."""
    made = []
    monkeypatch.setattr(Study, "make", lambda self: made.append(self))
    monkeypatch.setattr(Study, "measure", lambda self: None)
    tables = StudyTable({"vanilla": {}}), StudyTable({"vanilla": {}})
    monkeypatch.setattr(study_command, "write_results", lambda study, command: tables)
    out = tmp_path / "study"
    words = ["study", "clevr-1fov-tiny", "--seeds", "2", "--arms", "vanilla", "rotated", "--out", str(out)]
    assert main([*words, "--total-kimg", "8", "--workers", "1", "--protocol.seed", "5"]) == 0
    assert f"{out / 'table.md'}" in capsys.readouterr().out
    (study,) = made
    assert (study.config.seeds, study.config.arms, study.config.total_kimg) == (2, ("vanilla", "rotated"), 8.0)
    assert study.config.protocol.seed == 5 and study.config.finetune_kimg == 2.0
    assert len(study.dataset) == 500  # the package's own pictures
