import dataclasses
import json
import math
import os
import re
import signal

import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.folder_lock import exclusive
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.generators.progan import ProGANConfig
from hessian_penalty.runs import RunFolder, write_json
from hessian_penalty.training.callbacks import Callback
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.data_order import data_indices
from hessian_penalty.training.trainer import Trainer, config_record

CONFIG = TrainingConfig(
    generator=ProGANConfig(latent_dim=3, channels=(8, 4)), total_kimg=0.096, batch_size=8, log_kimg=0.016,
    snapshot_kimg=0.032, r1_interval=4, seed=1,
)  # fmt: skip
ADAPTIVE = dataclasses.replace(CONFIG, penalty=PenaltyConfig(adaptive=0.1, reduction="mean", scale_free=True))
OF_AVERAGE = dataclasses.replace(CONFIG, penalty=dataclasses.replace(ADAPTIVE.penalty, of_average=True))


class Pictures:
    """Two kinds of picture, so that there is something to learn."""

    def __init__(self, count=20):
        rng = torch.Generator().manual_seed(0)
        self.images = (
            torch.rand(count, 3, 8, 8, generator=rng)
            * torch.tensor([1.0, -1.0]).repeat(count // 2)[:, None, None, None]
        )

    def __len__(self):
        return len(self.images)

    def batch(self, indices, resolution=None):
        return self.images[torch.as_tensor(indices)]


def make(folder, config=CONFIG, callbacks=(), **options):
    run = RunFolder.create(folder)
    write_json(run.config_path, config_record(config))
    return Trainer(config, Pictures(), run, callbacks=callbacks, accelerator="cpu", **options)


def weights(trainer):
    return {f"{n}.{k}": v.clone() for n, m in trainer.state.networks.items() for k, v in m.state_dict().items()}


class StopAt(Callback):
    """Raise between two steps, as a kill would."""

    def on_step(self, kimg, total_kimg):
        if kimg >= 0.056 - 1e-9:
            raise RuntimeError("killed")


class InterruptedPictures(Pictures):
    """Ctrl-C arrives while the batch of the seventh step is read: in the middle of a step."""

    def __init__(self):
        super().__init__()
        self.batches = 0

    def batch(self, indices, resolution=None):
        self.batches += 1
        if self.batches == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(indices, resolution)


@pytest.mark.parametrize("config", [CONFIG, ADAPTIVE, OF_AVERAGE], ids=["vanilla", "adaptive penalty", "of average"])
@pytest.mark.parametrize("how", ["killed", "interrupted"])
def test_a_resumed_run_reaches_the_same_weights_bit_for_bit(tmp_path, config, how):
    whole = make(tmp_path / "whole", config)
    whole.train()
    cut = make(tmp_path / "cut", config, [StopAt()] if how == "killed" else ())
    if how == "killed":
        with pytest.raises(RuntimeError, match="killed"):
            cut.train()
    else:
        cut.dataset = InterruptedPictures()
        with pytest.raises(KeyboardInterrupt):
            cut.train()
    run = RunFolder.open(tmp_path / "cut")
    resumed = Trainer(config, Pictures(), run, accelerator="cpu")
    resumed.resume()
    assert resumed.kimg == (0.056 if how == "interrupted" else 0.032)  # Ctrl-C ends its step and saves
    resumed.train()
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name
    kimgs = [record["kimg"] for record in run.metrics()]
    assert kimgs == sorted(set(kimgs))
    assert kimgs[-1] == 0.096


def test_a_second_interruption_stops_at_once(tmp_path):
    class Impatient(Pictures):
        def batch(self, indices, resolution=None):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            return super().batch(indices, resolution)

    trainer = make(tmp_path / "run")
    trainer.dataset = Impatient()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.run.checkpoints() == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_another_process_trains_is_left_alone(tmp_path):
    first = make(tmp_path / "run", callbacks=[StopAt()])
    with pytest.raises(RuntimeError, match="killed"):
        first.train()
    recorded = first.run.metrics_path.read_text()
    second = Trainer(CONFIG, Pictures(), first.run, accelerator="cpu")
    with exclusive(first.run.path), pytest.raises(UserError, match="Another process is at work in"):
        second.resume()
        second.train()
    assert second.kimg == 0.032 and first.run.metrics_path.read_text() == recorded  # up to 0.048
    second.train()


def test_an_ignored_interruption_stays_ignored(tmp_path):
    """As in a job that a shell started in the background."""
    trainer = make(tmp_path / "run")
    trainer.dataset = InterruptedPictures()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.kimg == 0.096


def test_checkpoints_are_written_and_the_oldest_dropped(tmp_path):
    trainer = make(tmp_path / "run", dataclasses.replace(CONFIG, keep_checkpoints=2))
    trainer.train()
    assert [path.name for path in trainer.run.checkpoints()] == ["kimg-000000.064", "kimg-000000.096"]
    ema = load_generator(trainer.run)
    assert torch.equal(ema.to_image.weight, trainer.state.ema.to_image.weight)


def test_records_say_what_happened(tmp_path):
    trainer = make(tmp_path / "run", ADAPTIVE)
    trainer.train()
    records = trainer.run.metrics()
    assert len(records) == 6
    expected = {"kimg", "images_per_second", "critic_loss", "score_margin", "generator_loss", "penalty"}
    assert expected | {"penalty_weight"} <= set(records[0])
    assert all(math.isfinite(value) for record in records for value in record.values())


def test_callbacks_hear_of_steps_records_and_snapshots(tmp_path):
    heard = []

    class Listener(Callback):
        def on_step(self, kimg, total_kimg):
            heard.append("step")

        def on_log(self, record):
            heard.append("log")

        def on_snapshot(self, run, ema, kimg):
            heard.append("snapshot")

    make(tmp_path / "run", callbacks=[Listener()]).train()
    assert [heard.count(event) for event in ("step", "log", "snapshot")] == [12, 6, 3]


def test_training_learns_the_mean_colour(tmp_path):
    """After 3 kimg of pictures that are all light grey, generated ones are light grey too."""

    class Grey(Pictures):
        def __init__(self):
            self.images = torch.full((16, 3, 8, 8), 0.7)

    config = dataclasses.replace(CONFIG, total_kimg=3.0, batch_size=16, ema_half_life_kimg=0.2)
    trainer = Trainer(config, Grey(), accelerator="cpu")
    before = float(trainer.state.ema(trainer.state.ema.sample_latents(64)).mean())
    trainer.train()
    after = float(trainer.state.ema(trainer.state.ema.sample_latents(64)).mean())
    assert abs(after - 0.7) < 0.25 < abs(before - 0.7)


def test_moving_average_has_its_half_life():
    trainer = Trainer(dataclasses.replace(CONFIG, ema_half_life_kimg=0.008), Pictures(), accelerator="cpu")
    start = trainer.state.ema.to_image.weight.clone()
    trainer.step()
    expected = (start + trainer.state.networks["generator"].to_image.weight) / 2  # one batch of 8 is one half-life
    assert torch.allclose(trainer.state.ema.to_image.weight, expected, atol=1e-6)


def test_fine_tuning_starts_where_the_other_run_ended(tmp_path):
    first = make(tmp_path / "first")
    first.train()
    second = make(tmp_path / "second", ADAPTIVE)
    second.start_from(first.run.latest_checkpoint())
    for name, value in weights(first).items():
        assert torch.equal(weights(second)[name], value)
    moments = [t.state.generator_optimizer.state_dict()["state"][0]["exp_avg_sq"] for t in (first, second)]
    assert torch.equal(*moments)
    assert second.state.images_seen == 0


def test_fine_tuning_takes_a_checkpoint_without_optimisers(tmp_path):
    first = make(tmp_path / "first")
    first.train()
    for path in first.run.latest_checkpoint().glob("*_optimizer.safetensors"):
        path.unlink()
    second = make(tmp_path / "second")
    second.start_from(first.run.latest_checkpoint())
    second.step()
    third = Trainer(CONFIG, Pictures(), first.run, accelerator="cpu")
    with pytest.raises(UserError, match=r"generator_optimizer.safetensors cannot be read"):
        third.resume()


def test_another_architecture_is_refused(tmp_path):
    first = make(tmp_path / "first")
    first.train()
    wide = dataclasses.replace(CONFIG, generator=ProGANConfig(latent_dim=3, channels=(16, 4)))
    with pytest.raises(UserError, match="does not fit this network"):
        make(tmp_path / "second", wide).start_from(first.run.latest_checkpoint())


@pytest.mark.parametrize("config", [CONFIG, ADAPTIVE], ids=["vanilla", "adaptive penalty"])
def test_divergence_names_the_last_good_checkpoint(tmp_path, config):
    class Poison(Callback):
        def on_step(self, kimg, total_kimg):
            if kimg > 0.05:
                trainer.state.generator.to_image.weight.data.fill_(math.nan)

    trainer = make(tmp_path / "run", config, callbacks=[Poison()])
    saved = re.escape(str(trainer.run.checkpoint_path(0.032)))
    with pytest.raises(UserError, match=rf"Training diverged at .*_loss = nan.*The last good checkpoint is {saved}"):
        trainer.train()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """They arise in the last step before a snapshot, after all its losses were fine."""

    class Poison(Callback):
        def on_step(self, kimg, total_kimg):
            if kimg == 0.064:
                trainer.state.critic.score.weight.data.fill_(math.inf)

    trainer = make(tmp_path / "run", callbacks=[Poison()])
    saved = re.escape(str(trainer.run.checkpoint_path(0.032)))
    with pytest.raises(UserError, match=rf"the critic's weights are not finite\. The last good checkpoint is {saved}"):
        trainer.train()
    assert [path.name for path in trainer.run.checkpoints()] == ["kimg-000000.032"]


def test_a_penalty_of_collapsed_images_is_divergence(tmp_path):
    trainer = make(tmp_path / "run", ADAPTIVE)
    trainer.state.generator.to_image.weight.data.zero_()
    with pytest.raises(UserError, match="Training diverged at .* penalty: `scale_free` divides by the variance"):
        trainer.train()


@pytest.mark.parametrize("config", [CONFIG, ADAPTIVE], ids=["vanilla", "adaptive penalty"])
def test_mixed_precision_trains(tmp_path, config):
    trainer = make(tmp_path / "run", config, precision="bf16-mixed")
    trainer.train()
    assert trainer.kimg == 0.096
    assert trainer.state.generator.to_image.weight.dtype == torch.float32


def test_an_unknown_device_is_named():
    with pytest.raises(UserError, match="accelerator 'abacus'"):
        Trainer(CONFIG, Pictures(), accelerator="abacus")


def test_a_damaged_checkpoint_is_named(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    state = trainer.run.latest_checkpoint() / "state.json"
    state.write_text(json.dumps({"kimg": 0.096}))
    with pytest.raises(UserError, match=r"is damaged \('images_seen'\)"):
        trainer.resume()
    state.write_text("{}")
    with pytest.raises(UserError, match="does not hold a number `kimg`"):
        trainer.resume()


def test_divergence_before_the_first_checkpoint(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.state.networks["critic"].score.weight.data.fill_(1e9)
    with pytest.raises(UserError, match="There is no checkpoint yet"):
        trainer.train()


def test_penalised_layers_are_checked_at_the_start(tmp_path):
    config = dataclasses.replace(CONFIG, penalty=PenaltyConfig(weight=0.1, layers=("blocks.9.norm0",)))
    with pytest.raises(UserError, match=r"penalty: .*blocks\.9\.norm0"):
        Trainer(config, Pictures(), accelerator="cpu")


def test_data_comes_in_a_new_order_each_epoch_and_each_image_once():
    first, second = data_indices(0, 20, 20, seed=0), data_indices(20, 20, 20, seed=0)
    assert sorted(first) == sorted(second) == list(range(20))
    assert not np.array_equal(first, second)
    across = data_indices(15, 10, 20, seed=0)
    assert np.array_equal(across, np.concatenate([first[15:], second[:5]]))


def test_empty_data_is_refused():
    with pytest.raises(UserError, match="data set is empty"):
        Trainer(CONFIG, Pictures(0), accelerator="cpu")


def test_a_checkpoint_is_tensors_and_json_alone(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    files = {path.name for path in trainer.run.latest_checkpoint().iterdir()}
    assert files == {
        "generator.safetensors", "ema.safetensors", "critic.safetensors", "generator_optimizer.safetensors",
        "critic_optimizer.safetensors", "rng.safetensors", "state.json",
    }  # fmt: skip
    state = json.loads((trainer.run.latest_checkpoint() / "state.json").read_text())
    assert state["images_seen"] == 96
