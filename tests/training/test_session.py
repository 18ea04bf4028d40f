import dataclasses

import numpy as np
import pytest

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.runs import RunFolder, read_json
from hessian_penalty.training.session import resume_run, start_run


def make_dataset(folder, shape):
    folder.mkdir()
    np.save(folder / "images.npy", np.zeros(shape, np.uint8))
    ImageDataset.finish(folder, [], name="black")
    return ImageDataset(folder)


def test_config_says_what_was_trained_on(small_config, small_dataset, tmp_path):
    trainer = start_run(small_config, small_dataset, tmp_path / "run", provenance={"preset": "p"}, accelerator="cpu")
    record = read_json(trainer.run.config_path)
    assert record["provenance"]["preset"] == "p"
    assert record["provenance"]["data_sha256"] == small_dataset.metadata["sha256"]
    assert record["generator"]["channels"] == [12, 8, 8]


def test_a_run_stopped_before_its_first_checkpoint_begins_again(small_config, small_dataset, tmp_path):
    run = start_run(small_config, small_dataset, tmp_path / "run", accelerator="cpu").run
    assert resume_run(run, accelerator="cpu").state.images_seen == 0


def test_records_of_a_run_that_begins_again_are_dropped(small_config, small_dataset, tmp_path):
    run = start_run(small_config, small_dataset, tmp_path / "run", accelerator="cpu").run
    run.append_metrics({"kimg": 0.016})
    trainer = resume_run(run, accelerator="cpu")
    assert run.metrics() == [{"kimg": 0.016}]  # another process might be at work
    trainer.train()
    assert [record["kimg"] for record in run.metrics()] == [0.032, 0.064, 0.096, 0.128]


def test_the_name_is_known_where_the_path_is_a_dot(small_config, small_dataset, small_run, tmp_path, monkeypatch):
    monkeypatch.chdir(small_run.path)
    here = RunFolder.open(".")
    run = start_run(small_config, small_dataset, tmp_path / "run", finetune=here, accelerator="cpu").run
    assert run.provenance()["finetuned_from"] == small_run.path.name


def test_a_fine_tuning_without_checkpoint_cannot_go_on(small_config, small_dataset, small_run, tmp_path):
    run = start_run(small_config, small_dataset, tmp_path / "run", finetune=small_run, accelerator="cpu").run
    with pytest.raises(UserError, match="stopped before its first checkpoint: delete it and fine-tune anew"):
        resume_run(run, accelerator="cpu")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 16, 16, 1), r"has 1-channel images, the generator makes 3: set --generator.image-channels 1"),
        ((3, 8, 8, 3), "has 8-pixel images, which cannot be shrunk to 16"),
    ],
)
def test_data_that_does_not_fit(small_config, tmp_path, shape, message):
    with pytest.raises(UserError, match=message):
        start_run(small_config, make_dataset(tmp_path / "data", shape), tmp_path / "run", accelerator="cpu")
    assert not (tmp_path / "run").exists()


def test_another_architecture_leaves_no_folder(small_config, small_dataset, small_run, tmp_path):
    for field, value in {"latent_dim": 5, "normalize_latent": False, "channels": (8, 8, 8)}.items():
        other = dataclasses.replace(small_config.generator, **{field: value})
        changed = dataclasses.replace(small_config, generator=other)
        with pytest.raises(UserError, match=rf"generator.{field} is .*, but .* was trained with"):
            start_run(changed, small_dataset, tmp_path / "run", finetune=small_run, accelerator="cpu")
    assert not (tmp_path / "run").exists()


def test_resuming_on_other_data_is_refused(small_run, tmp_path):
    other = make_dataset(tmp_path / "data", (3, 16, 16, 3))
    with pytest.raises(UserError, match="is not the data set that .* was trained on"):
        resume_run(small_run, data=other.path, accelerator="cpu")
