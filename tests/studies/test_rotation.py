import pytest
import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator, read_tensors
from hessian_penalty.runs import RunFolder, read_json
from hessian_penalty.studies.rotation import rotate_run
from hessian_penalty.training.session import resume_run, start_run

QUICK = HessianSearch(sketches=32, held_out=16, rounds=1)


@pytest.fixture(scope="module")
def rotated(small_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("rotated") / "run"
    rotate_run(small_run, out, method=QUICK)
    return RunFolder.open(out)


@pytest.mark.parametrize("weights", ["ema", "generator"])
def test_rotated_latents_make_the_same_images(small_run, rotated, weights):
    before, after = load_generator(small_run, weights), load_generator(rotated, weights)
    matrix = Directions.load(rotated.path / "directions.safetensors").matrix
    w = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    assert float((after(w) - before(w @ matrix)).abs().max()) < 1e-4
    assert float((after(w) - before(w)).abs().max()) > 1e-2


def test_the_matrix_is_a_rotation_sorted_by_activeness(rotated):
    found = Directions.load(rotated.path / "directions.safetensors")
    assert torch.allclose(found.matrix @ found.matrix.T, torch.eye(4), atol=1e-5)
    assert found.activeness.tolist() == sorted(found.activeness.tolist(), reverse=True)
    assert (rotated.path / "directions.csv").exists()


def test_provenance_says_where_the_run_came_from(small_run, rotated):
    provenance = read_json(rotated.config_path)["provenance"]
    assert provenance["rotated"]["run"] == small_run.path.name
    assert provenance["rotated"]["settings"]["sketches"] == 32
    assert provenance["data"] == read_json(small_run.config_path)["provenance"]["data"]


def test_optimizer_moments_turn_with_the_weights(small_run, rotated):
    """Adam's first moment is a gradient: it turns as the weight does. The second stays positive, its sum kept."""
    matrix = Directions.load(rotated.path / "directions.safetensors").matrix
    before, after = (
        read_tensors(run.latest_checkpoint() / "generator_optimizer.safetensors") for run in (small_run, rotated)
    )
    assert torch.allclose(after["0.exp_avg"], before["0.exp_avg"] @ matrix.T, atol=1e-7)
    assert float(after["0.exp_avg_sq"].min()) >= 0
    assert torch.allclose(after["0.exp_avg_sq"].sum(1), before["0.exp_avg_sq"].sum(1), rtol=1e-4)
    others = [name for name in before if not name.startswith("0.")]
    assert all(torch.equal(before[name], after[name]) for name in others)


def test_index_0_is_the_first_linear_layer(small_run):
    assert next(iter(load_generator(small_run).named_parameters()))[0] == "blocks.0.dense.weight"


def test_training_takes_the_rotated_run(rotated, small_config, small_dataset, tmp_path):
    trainer = start_run(small_config, small_dataset, tmp_path / "tuned", finetune=rotated, accelerator="cpu")
    assert torch.equal(trainer.networks["ema"].first_linear.weight, load_generator(rotated).first_linear.weight)
    trainer.train()
    provenance = read_json(trainer.run.config_path)["provenance"]
    assert provenance["finetuned_from"] == rotated.path.name
    assert provenance["finetuned_from_kimg"] == pytest.approx(0.128)


def test_resuming_the_rotated_run_goes_on_from_it(rotated):
    trainer = resume_run(rotated, accelerator="cpu")
    assert trainer.kimg == pytest.approx(0.128)


def test_a_run_stopped_in_its_first_step_can_be_rotated(small_config, small_dataset, tmp_path):
    trainer = start_run(small_config, small_dataset, tmp_path / "run", accelerator="cpu")
    trainer.save()
    rotate_run(trainer.run, tmp_path / "rotated", method=QUICK)
    assert RunFolder.open(tmp_path / "rotated").checkpoints()


def test_an_existing_folder_is_not_overwritten(small_run, rotated):
    with pytest.raises(UserError, match="exists already. Choose another --out"):
        rotate_run(small_run, rotated.path)


def test_nothing_is_left_after_a_failure(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(Directions, "save", lambda self, path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        rotate_run(small_run, tmp_path / "out", method=QUICK)
    assert list(tmp_path.iterdir()) == []
