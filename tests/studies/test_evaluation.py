import dataclasses
import json
import shutil

import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.metrics.measures import MeasureProtocol, measure
from hessian_penalty.runs import RunFolder, read_json, write_json
from hessian_penalty.studies import evaluation
from hessian_penalty.studies.evaluation import Evaluator, data_of

QUICK = MeasureProtocol(activeness_samples=6, hessian_samples=3, frechet_images=20, batch_size=16)


def test_measures_are_kept_and_found_again(small_run, small_dataset, monkeypatch):
    first = Evaluator(QUICK, small_dataset, 16)(small_run)
    monkeypatch.setattr(evaluation, "measure", lambda *a: pytest.fail("measured again"))
    again = Evaluator(QUICK, small_dataset, 16)(small_run)
    assert again.record() == first.record()
    assert first.frechet is not None
    assert first.extractor == "efficientnet-lite0"


def test_another_protocol_measures_again(small_run):
    Evaluator(QUICK, None)(small_run)
    Evaluator(dataclasses.replace(QUICK, seed=1), None)(small_run)
    assert read_json(small_run.path / "measures.json")["of"]["protocol"]["seed"] == 1


def test_without_data_the_distance_is_left_out(small_run):
    found = Evaluator(QUICK, None)(small_run)
    assert found.frechet is None
    assert found.extractor is None


def test_the_record_holds_what_its_parts_give(small_run):
    generator = load_generator(small_run)
    found = measure(generator, QUICK)
    total, squares = sum(found.activeness), sum(a * a for a in found.activeness)
    assert found.effective_latents == pytest.approx(total**2 / squares)
    assert len(found.hessian) == len(found.activeness_published) == 4
    assert 0 < found.off_diagonal_share < 1
    assert measure(generator, QUICK).record() == found.record()


def test_real_pictures_lie_nearer_to_the_data_than_a_barely_trained_generators(small_run, small_dataset):
    distance = Evaluator(QUICK, small_dataset, 16)._reference()
    other_half = distance([small_dataset.batch(slice(20, 64), 16)])
    generated = distance([load_generator(small_run)(torch.randn(44, 4))])
    assert other_half < 0.5 * generated


def test_a_damaged_record_is_measured_again(small_run):
    for text in ("[]", "{", json.dumps({"of": None})):
        (small_run.path / "measures.json").write_text(text)
        assert len(Evaluator(QUICK, None)(small_run).activeness) == 4


def test_data_of_a_run(small_run, small_dataset, tmp_path):
    assert data_of(small_run).path == small_dataset.path.resolve()
    shutil.copytree(small_run.path, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    record = run.config()
    write_json(run.config_path, record | {"provenance": {**run.provenance(), "data_sha256": "0"}})
    with pytest.raises(UserError, match="is not the data set that .* was trained on"):
        data_of(run)
    write_json(run.config_path, record | {"provenance": None})
    with pytest.raises(UserError, match="does not say which data set"):
        data_of(run)


def test_protocol_errors():
    with pytest.raises(UserError, match="hessian_samples must be a finite number at least 2, got 1"):
        MeasureProtocol(hessian_samples=1)
