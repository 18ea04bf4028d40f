import shutil
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.folder_lock import exclusive
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, from_record, read_json, write_json
from hessian_penalty.studies import arm_making
from hessian_penalty.studies.arm_making import divergence_of, rotate_arm, seconds_of, train_arm
from hessian_penalty.studies.arms import ARMS
from hessian_penalty.studies.study import Study, StudyConfig
from hessian_penalty.studies.study_report import facts, write_results
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.presets import PRESETS
from hessian_penalty.training.trainer import DivergedRun, Trainer

SHORT = StudyConfig(
    seeds=1,
    arms=("vanilla", "infogan", "rotated"),
    total_kimg=0.064,
    finetune_kimg=0.032,
    protocol=MeasureProtocol(
        activeness_samples=4, hessian_samples=2, frechet_images=8, reference_images=8, path_length_pairs=0,
        predictability_pairs=0, audit_images=0, batch_size=16,
    ),
)  # fmt: skip


@contextmanager
def silent(title):
    yield lambda done, total, note="": None


@pytest.fixture(scope="module")
def bars():
    return {}


@pytest.fixture(scope="module")
def small_preset(small_run):
    """Networks of 4 latents and 16 pixels."""
    record = small_run.config()
    record.pop("provenance")
    training = from_record(TrainingConfig, record, "config.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", replace(PRESETS["clevr-1fov-tiny"], vanilla=training))
        yield "small"


@pytest.fixture(scope="module")
def study(small_preset, small_dataset, tmp_path_factory, bars):
    """A finished study, with its models made in other processes."""

    @contextmanager
    def listening(title):
        bars[title] = []
        yield lambda done, total, note="": bars[title].append((done, total))

    out = tmp_path_factory.mktemp("study") / "out"
    study = Study(small_preset, SHORT, out, data=small_dataset.path, workers=2, stage=listening)
    study.make()
    study.measure()
    return study


@pytest.mark.slow
def test_every_model_is_made_and_measured(study):
    names = {path.name for path in (study.out / "seed-0").iterdir()}
    assert names == {"start", "vanilla", "infogan", "rotated"}
    assert study.run_of("vanilla", 0).trained_kimg() == study.run_of("infogan", 0).trained_kimg() == 0.064
    assert study.run_of("vanilla", 0).provenance()["finetuned_from"] == "start"
    assert study.run_of("infogan", 0).config()["infogan"]["latents"] == 1
    assert "rotated" in study.run_of("rotated", 0).provenance()
    found = study.measures()
    assert set(found) == {"vanilla", "infogan", "rotated"}
    assert all(measures[0].frechet is not None for measures in found.values())


@pytest.mark.slow
def test_progress_ends_where_everything_is_done(study, bars):
    assert bars["training (kimg)"][-1] == (pytest.approx(0.128), pytest.approx(0.128))
    assert bars["measuring (models)"][-1] == (3, 3)


@pytest.mark.slow
def test_a_repeated_command_makes_nothing_again(study):
    before = {
        path: path.stat().st_mtime_ns for path in study.out.rglob("*") if path.name not in ("study.json", ".lock")
    }
    again = Study("small", SHORT, study.out, data=study.dataset.path, workers=1, stage=silent)
    again.make()
    again.measure()
    after = {path: path.stat().st_mtime_ns for path in study.out.rglob("*") if path.name not in ("study.json", ".lock")}
    assert {path for path in before if path.is_file() and before[path] != after.get(path)} == set()


@pytest.mark.slow
def test_two_commands_do_not_work_in_one_folder(study):
    again = Study("small", SHORT, study.out, data=study.dataset.path, workers=1, stage=silent)
    with exclusive(study.out):
        for step in (again.make, again.measure):
            with pytest.raises(UserError, match="Another process is at work in"):
                step()


@pytest.mark.slow
def test_results(study):
    table, faults = write_results(study, "the command")
    record = read_json(study.out / "results.json")
    assert record["summary"]["vanilla"]["frechet"]["mean"] == study.measures()["vanilla"][0].frechet
    assert record["protocol"]["hessian_samples"] == 2 and record["diverged"] == {}
    assert record["measures"]["rotated"]["0"]["frechet"] == study.measures()["rotated"][0].frechet
    assert record["faults"]["rotated"]["frechet_change"]["values"] == [
        study.measures()["rotated"][0].frechet / study.measures()["vanilla"][0].frechet - 1
    ]
    assert all(seconds > 0 for seconds in record["making_seconds"].values()) and len(record["making_seconds"]) == 4
    page = (study.out / "report.html").read_text()
    assert "the command" in page and "All of 1 seed<" in page and ARMS["infogan"].description in page
    text = (study.out / "table.md").read_text()
    assert text.startswith("| | vanilla | infogan | rotated |")
    assert "every model saw 0.064 kimg" in text
    assert table.models == faults.models == ["vanilla", "infogan", "rotated"]
    assert "What goes wrong" in text and "| Dead latents |" in text and "Dead latents" in page


@pytest.mark.slow
def test_a_diverged_training_is_a_result(study, tmp_path):
    shutil.copytree(study.out, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "seed-0" / "infogan" / "checkpoints")
    write_json(tmp_path / "out" / "seed-0" / "infogan" / "diverged.json", {"why": "Training diverged at 1 kimg"})
    copy = Study("small", SHORT, tmp_path / "out", data=study.dataset.path, workers=1, stage=silent)
    copy.make()
    assert set(copy.measures()["vanilla"]) == {0} and copy.measures()["infogan"] == {}
    assert facts(copy)["diverged"] == {"seed-0/infogan": "Training diverged at 1 kimg"}
    table, _ = write_results(copy)
    assert table.cell("infogan", table.rows[0]) == "–"
    assert "Diverged: seed-0/infogan" in (copy.out / "table.md").read_text()


def test_divergence_is_kept_and_not_tried_again(small_config, small_dataset, tmp_path, monkeypatch):
    def diverge(self):
        raise DivergedRun("Training diverged at 0.016 kimg")

    out = tmp_path / "run"
    monkeypatch.setattr(Trainer, "train", diverge)
    for _ in range(2):
        with pytest.raises(DivergedRun, match="at 0.016 kimg"):
            train_arm(small_config, small_dataset.path, out, None, {})
        assert divergence_of(RunFolder(out)) == "Training diverged at 0.016 kimg"
        monkeypatch.setattr(Trainer, "train", lambda self: pytest.fail("tried again"))


def test_an_interrupted_training_goes_on_and_its_time_adds_up(small_config, small_dataset, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    config = replace(small_config, snapshot_kimg=0.016)
    step = Trainer.step

    def interrupted(self):
        if self.kimg > 0.04:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_arm(config, small_dataset.path, run.path, None, {"method": "vanilla"})
    assert 0 < run.state()["kimg"] < 0.128
    first = seconds_of(run)
    monkeypatch.setattr(Trainer, "step", step)
    train_arm(config, small_dataset.path, run.path, None, {"method": "vanilla"})
    assert run.state()["kimg"] == pytest.approx(0.128)
    assert seconds_of(run) > first > 0


def test_a_model_of_other_settings_is_not_taken_for_this_one(small_config, small_dataset, tmp_path):
    train_arm(replace(small_config, total_kimg=0.016), small_dataset.path, tmp_path / "run", None, {})
    other = replace(small_config, total_kimg=0.016, penalty=PenaltyConfig(weight=1.0))
    with pytest.raises(UserError, match=r"run was made with other settings \(penalty\), perhaps by another version\."):
        train_arm(other, small_dataset.path, tmp_path / "run", None, {})


def test_rotation_is_kept(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(arm_making, "rotate_run", lambda start, out, seed: out.mkdir())
    rotate_arm(small_run.path, tmp_path / "rotated", 3)
    monkeypatch.setattr(arm_making, "rotate_run", lambda *a, **k: pytest.fail("rotated again"))
    rotate_arm(small_run.path, tmp_path / "rotated", 3)


def test_mistakes(tmp_path):
    def study(preset="clevr-1fov-tiny", config=SHORT, out="out", **options):
        return Study(preset, config, tmp_path / out, **{"workers": 1, "stage": silent} | options)

    with pytest.raises(UserError, match="Unknown preset 'clevr'; choose one of clevr-simple-tiny"):
        study("clevr")
    with pytest.raises(UserError, match="needs pictures: make them by `hessian-penalty import .*--data DIR"):
        study("edges-and-shoes-tiny")
    with pytest.raises(UserError, match="needs pictures: make them by `hessian-penalty render .*--size 128`"):
        study("clevr-simple")
    with pytest.raises(UserError, match="workers must be a finite number at least 1, got 0"):
        study(workers=0)
    with pytest.raises(UserError, match=r"finetune_kimg \(2\) is the last part of total_kimg \(1\): give less"):
        study(config=replace(SHORT, total_kimg=1.0, finetune_kimg=2.0))
    with pytest.raises(UserError, match="seeds must be a finite number in"):
        StudyConfig(seeds=0)
    study()
    with pytest.raises(UserError, match="holds a study with other settings"):
        study(config=replace(SHORT, total_kimg=1.0))


def test_a_package_that_the_measures_need_is_missed_before_the_training(
    small_preset, small_dataset, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "lpips", None)
    lpips = replace(SHORT, protocol=replace(SHORT.protocol, path_length_pairs=100, perceptual_distance="lpips-vgg16"))
    study = Study(small_preset, lpips, tmp_path / "out", data=small_dataset.path, workers=1, stage=silent)
    with pytest.raises(UserError, match="pip install lpips"):
        study.make()
    assert not (tmp_path / "out" / "seed-0").exists()


def test_lengths_are_the_presets_where_none_are_given():
    assert StudyConfig().of("clevr-simple-tiny").total_kimg == PRESETS["clevr-simple-tiny"].study_kimg
    config = StudyConfig(total_kimg=8.0).of("clevr-simple-tiny")
    assert (config.total_kimg, config.finetune_kimg) == (8.0, 2.0)
