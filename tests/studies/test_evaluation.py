import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.metrics.features import image_features
from hessian_penalty.metrics.frechet import frechet_distance
from hessian_penalty.metrics.instruments import Instruments
from hessian_penalty.metrics.measures import PARTS, Measures, measure
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, read_json, write_json
from hessian_penalty.studies.evaluation import Evaluator, data_of

QUICK = MeasureProtocol(
    activeness_samples=6, hessian_samples=3, frechet_images=20, reference_images=20, path_length_pairs=0,
    predictability_pairs=0, audit_images=0, batch_size=16,
)  # fmt: skip


@pytest.fixture(scope="module")
def squares(small_dataset, tmp_path_factory):
    """The small data set twice over, as a probe needs a hundred pictures."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    folder.mkdir()
    np.save(folder / "images.npy", np.concatenate([small_dataset.images_uint8] * 2))
    (x,) = small_dataset.factors()
    ImageDataset.finish(folder, [Factor("x", "continuous", np.concatenate([x.values] * 2))], name="squares")
    return ImageDataset(folder)


def test_measures_are_kept_and_found_again(small_run, small_dataset):
    first = Evaluator(QUICK, small_dataset, 16)(small_run)
    again = Evaluator(QUICK, small_dataset, 16)(small_run, lambda part, share: pytest.fail(f"{part} was taken again"))
    assert again.record() == first.record()
    assert first.frechet is not None
    assert first.extractor == "efficientnet-lite0"


def test_each_part_tells_how_far_it_is(small_run, squares):
    protocol = dataclasses.replace(QUICK, path_length_pairs=20, predictability_pairs=20, audit_images=120)
    told = {}
    Evaluator(protocol, squares, 16)(small_run, lambda part, share: told.setdefault(part, []).append(share))
    assert {part: len(shares) for part, shares in told.items()} == {  # 0, and then one for each batch or repeat
        "activeness": 1, "Hessians": 1, "distances": 3, "path length": 4, "predictability": 4, "factor audit": 9,
    }  # fmt: skip
    assert all(shares == sorted(shares) and shares[0] == 0 for shares in told.values())
    assert [told[part][-1] for part in ("distances", "path length", "predictability", "factor audit")] == [1] * 4


def test_only_what_changed_is_taken_again(small_run, small_dataset):
    def taken(protocol, dataset=small_dataset):
        parts = {}
        Evaluator(protocol, dataset, 16)(small_run, parts.setdefault)
        return list(parts)

    taken(QUICK)
    assert taken(dataclasses.replace(QUICK, batch_size=8)) == []
    assert taken(dataclasses.replace(QUICK, frechet_images=10)) == ["distances"]
    assert taken(dataclasses.replace(QUICK, frechet_images=10, hessian_samples=2)) == ["Hessians"]
    assert taken(dataclasses.replace(QUICK, seed=1)) == list(PARTS)
    assert taken(dataclasses.replace(QUICK, seed=1), None) == ["distances", "factor audit"]


def test_the_kernel_distance_can_be_left_out_alone(small_run, small_dataset):
    found = Evaluator(dataclasses.replace(QUICK, kernel_subsets=0), small_dataset, 16)(small_run)
    assert found.frechet is not None and found.kernel is None
    assert Evaluator(QUICK, small_dataset, 16)(small_run).kernel is not None


def test_what_another_protocol_took_is_not_lost(small_run, small_dataset):
    """Hours of a published protocol survive a look at the report with the quick one."""
    long, short = (dataclasses.replace(QUICK, seed=9, hessian_samples=count) for count in (5, 2))
    first = Evaluator(long, small_dataset, 16)(small_run)
    assert Evaluator(short, small_dataset, 16)(small_run).penalty != first.penalty
    again = Evaluator(long, small_dataset, 16)(small_run, lambda part, share: pytest.fail(f"{part} was taken again"))
    assert again == first


def test_other_weights_are_measured_anew_and_old_values_go(small_run, tmp_path):
    shutil.copytree(small_run.path, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    Evaluator(QUICK, None)(run)
    checkpoint = run.latest_checkpoint()
    shutil.copy(checkpoint / "generator.safetensors", checkpoint / "ema.safetensors")
    parts = []
    Evaluator(QUICK, None)(run, lambda part, share: parts.append(part))
    assert parts == list(PARTS)
    assert len(read_json(run.path / "measures.json")["taken"]) == len(PARTS)


def test_what_was_taken_before_an_interruption_is_kept(small_run, small_dataset):
    protocol = dataclasses.replace(QUICK, seed=7)

    def interrupt(part, share):
        if part == "distances":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Evaluator(protocol, small_dataset, 16)(small_run, interrupt)
    parts = []
    Evaluator(protocol, small_dataset, 16)(small_run, lambda part, share: parts.append(part))
    assert parts[0] == "distances"


def test_each_part_gives_what_it_says_and_all_fields_are_given():
    given = [name for part in PARTS.values() for name in part.gives]
    assert sorted(given) == sorted({field.name for field in dataclasses.fields(Measures)} - {"protocol"})
    for part in PARTS.values():
        assert all(hasattr(QUICK, setting) for setting in part.settings)


def test_without_data_the_distance_is_left_out(small_run):
    found = Evaluator(QUICK, None)(small_run)
    assert found.frechet is None
    assert found.extractor is None


def test_the_record_holds_what_its_parts_give(small_run):
    generator = load_generator(small_run)
    found = measure(generator, Instruments(QUICK))
    total, squares = sum(found.activeness), sum(a * a for a in found.activeness)
    assert found.effective_latents == pytest.approx(total**2 / squares)
    assert len(found.hessian) == len(found.activeness_published) == 4
    assert 0 < found.off_diagonal_share < 1
    assert 0 <= found.diagonal_fraction <= 1 and found.diagonal_ratio > 0 and found.penalty > 0
    assert measure(generator, Instruments(QUICK)).record() == found.record()


def test_every_measure_at_once_survives_the_file(small_run, squares):
    protocol = MeasureProtocol(
        activeness_samples=4, hessian_samples=2, frechet_images=20, path_length_pairs=10, path_length_pixels=32,
        predictability_pairs=20, audit_images=100, batch_size=20,
    )  # fmt: skip
    found = Evaluator(protocol, squares, 16)(small_run)
    assert all(value is not None for value in found.record().values())
    assert found.audit.factors == ("x",) and len(found.audit.mutual_information) == 4
    again = Evaluator(protocol, squares, 16)(small_run, lambda part, share: pytest.fail(part))
    assert again == found


def test_data_without_ground_truth_is_not_audited(small_run, squares, tmp_path):
    shutil.copytree(squares.path, tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    write_json(path, read_json(path) | {"factors": []})
    protocol = dataclasses.replace(QUICK, audit_images=100)
    assert Evaluator(protocol, ImageDataset(tmp_path / "data"), 16)(small_run).audit is None


def test_real_pictures_lie_nearer_to_the_data_than_a_barely_trained_generators(small_run, small_dataset):
    tools = Instruments(QUICK, small_dataset, 16)

    def distance(images):
        return frechet_distance(image_features(tools.extractor, [images]), tools.reference)

    other_half = distance(small_dataset.batch(slice(20, 64), 16))
    assert other_half < 0.5 * distance(load_generator(small_run)(torch.randn(44, 4)))


def test_a_damaged_record_is_measured_again(small_run):
    for text in ("[]", "{", json.dumps({"taken": None}), json.dumps({"taken": [{"part": "Hessians", "of": {}}]})):
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
