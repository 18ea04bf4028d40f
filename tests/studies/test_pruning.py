import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.pruning import prune_run

WEIGHT = "blocks.0.dense.weight"


@pytest.fixture
def half_dead(small_run, tmp_path):
    """The small run without latent normalisation, whose latent 1 does nothing and latent 2 a tenth of what it did."""
    path = tmp_path / "half-dead"
    shutil.copytree(small_run.path, path)
    run = RunFolder.open(path)
    config = json.loads(run.config_path.read_text())
    config["generator"]["normalize_latent"] = False
    run.config_path.write_text(json.dumps(config))
    for name in ("generator", "ema"):
        file = run.latest_checkpoint() / f"{name}.safetensors"
        tensors = load_file(file)
        tensors[WEIGHT] = tensors[WEIGHT] * torch.tensor([1.0, 0.0, 0.1, 1.0])
        save_file(tensors, file)
    return run


def test_a_latent_that_does_nothing_goes_without_a_trace(half_dead, tmp_path):
    kept, change, active = prune_run(half_dead, tmp_path / "out", below=1e-6)
    assert active[1] == 0 and (active[[0, 2, 3]] > 0).all()
    assert torch.equal(kept.matrix, torch.eye(4)[[0, 2, 3]])
    assert kept.provenance["latents"] == [0, 2, 3]
    assert change.worst < 1e-5
    before, after = load_generator(half_dead), load_generator(RunFolder.open(tmp_path / "out"))
    assert after.latent_dim == 3
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(after(z[:, [0, 2, 3]]), before(z), rtol=0, atol=1e-4)  # rounding; a grey level is 8e-3


def test_the_threshold_is_a_part_of_the_most_active_latent(half_dead, tmp_path):
    kept, change, active = prune_run(half_dead, tmp_path / "out", below=0.2)
    assert active[2] < 0.2 * active.max() < active[0]
    assert kept.provenance["latents"] == [0, 3]
    assert 1e-4 < change.mean < change.worst and 0 < change.relative < 0.5
    record = json.loads((tmp_path / "out" / "config.json").read_text())
    assert record["generator"]["latent_dim"] == 2
    assert record["provenance"]["reduced"]["mean"] == pytest.approx(change.mean)
    assert record["provenance"]["rotated"]["method"] == "prune"


def test_a_run_without_inactive_latents_says_so(half_dead, tmp_path):
    with pytest.raises(UserError, match="no latent below 0 of the most active one: the least active has 0"):
        prune_run(half_dead, tmp_path / "out", below=0.0)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(half_dead, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already"):
        prune_run(half_dead, tmp_path / "out")
    with pytest.raises(UserError, match="below"):
        prune_run(half_dead, tmp_path / "new", below=1.5)
