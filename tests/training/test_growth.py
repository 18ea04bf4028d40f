"""Runs that grow: what each step sees, what a checkpoint keeps, what a fine-tuning takes over."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.generators.progan import ProGANConfig
from hessian_penalty.runs import RunFolder, write_json
from hessian_penalty.training.callbacks import Callback
from hessian_penalty.training.config import GrowthConfig, PenaltyConfig, TrainingConfig
from hessian_penalty.training.schedule import level_of_detail, phase_at
from hessian_penalty.training.session import start_run
from hessian_penalty.training.step import blended
from hessian_penalty.training.trainer import Trainer, config_record

GROWING = TrainingConfig(
    generator=ProGANConfig(latent_dim=4, channels=(8, 6, 4), grows=True),
    growth=GrowthConfig(
        stable_kimg=0.064, fade_kimg=0.064, batch_sizes=(32, 16, 16), learning_rates=(1e-3, 2e-3, 3e-3)
    ),
    total_kimg=0.384, batch_size=8, log_kimg=0.032, snapshot_kimg=0.096, keep_checkpoints=9,
)  # fmt: skip
PENALISED = dataclasses.replace(
    GROWING, penalty=PenaltyConfig(weight=0.01, layers=("blocks.[1-2].norm?",), reduction="mean")
)


class Squares:
    """Pictures of two kinds, and a record of what was asked for."""

    def __init__(self):
        self.asked = []
        self.images = torch.rand(48, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self):
        return len(self.images)

    def batch(self, indices, resolution=None):
        self.asked.append((len(indices), resolution))
        images = self.images[torch.as_tensor(indices)]
        return F.avg_pool2d(images, 16 // resolution) if resolution < 16 else images


def make(folder, config=GROWING, dataset=None, callbacks=()):
    run = RunFolder.create(folder)
    write_json(run.config_path, config_record(config))
    return Trainer(config, dataset or Squares(), run, accelerator="cpu", callbacks=callbacks)


def test_the_published_schedule():
    """600 kimg at each resolution and 600 in which the next fades in: 128 pixels are complete after 6,000."""
    growth = GrowthConfig()
    lods = [level_of_detail(growth, 128, kimg) for kimg in (0.0, 599.0, 900.0, 1200.0, 1799.0, 2100.0, 5999.0, 6000.0)]
    assert lods == [5, 5, 4.5, 4, 4, 3.5, round(2**16 / 600) / 2**16, 0]


def test_growth_without_fading_jumps():
    growth = GrowthConfig(stable_kimg=10.0, fade_kimg=0.0)
    assert [level_of_detail(growth, 16, kimg) for kimg in (0.0, 9.9, 10.0, 20.0)] == [2, 2, 1, 0]


def test_a_schedule_that_starts_at_the_full_resolution_does_not_grow():
    config = dataclasses.replace(GROWING, growth=dataclasses.replace(GROWING.growth, first_resolution=16))
    phase = phase_at(config, 0.0)
    assert (phase.lod, phase.resolution, phase.batch_size, phase.learning_rate) == (0, 16, 16, 3e-3)


def test_each_step_has_its_resolution_batch_and_rate(tmp_path):
    dataset = Squares()
    trainer = make(tmp_path / "run", dataset=dataset)
    rates = []
    while trainer.kimg < 0.3:
        trainer.step()
        rates.append(trainer.state.generator_optimizer.param_groups[0]["lr"])  # of the next step
    # 4 pixels up to 64 images, 8 fading in until 128, stable up to 192, 16 fading in until 256
    assert dataset.asked == [(32, 4)] * 3 + [(16, 8)] * 7 + [(16, 16)] * 6
    assert rates == [1e-3] * 2 + [2e-3] * 7 + [3e-3] * 7
    networks = (trainer.state.generator, trainer.state.ema, trainer.state.critic)
    assert [network.lod for network in networks] == [0, 0, 0]


def test_adam_forgets_where_a_level_comes_in_and_where_it_is_complete(tmp_path):
    trainer = make(tmp_path / "run")
    forgotten = []
    while trainer.kimg < 0.3:
        trainer.step()
        if all(not optimizer.state for optimizer in trainer.state.optimizers.values()):
            forgotten.append(trainer.kimg)
    assert forgotten == [0.096, 0.128, 0.208, 0.256]


def test_real_images_are_mixed_as_the_generators_are():
    reals = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    halved = reals.reshape(2, 3, 4, 2, 4, 2).mean(dim=(3, 5)).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(blended(reals, 1.25), 0.75 * reals + 0.25 * halved)
    assert blended(reals, 2.0) is reals


@pytest.mark.parametrize("config", [GROWING, PENALISED], ids=["vanilla", "penalty of layers"])
@pytest.mark.parametrize("loss", ["logistic", "wgan-gp"])
def test_a_growing_run_resumes_bit_for_bit(tmp_path, config, loss):
    config = dataclasses.replace(config, loss=loss)

    class Stop(Callback):
        def on_step(self, kimg, total_kimg):
            if kimg >= kill_at:
                raise RuntimeError("killed")

    whole = make(tmp_path / "whole", config)
    whole.train()
    for kill_at in (0.13, 0.25):  # the newest checkpoint is of a fading level, and of a whole one
        folder = tmp_path / f"cut{kill_at}"
        with pytest.raises(RuntimeError, match="killed"):
            make(folder, config, callbacks=[Stop()]).train()
        resumed = Trainer(config, Squares(), RunFolder.open(folder), accelerator="cpu")
        resumed.resume()
        resumed.train()
        for name, network in whole.state.networks.items():
            for key, value in network.state_dict().items():
                assert torch.equal(resumed.state.networks[name].state_dict()[key], value), (kill_at, name, key)


def test_the_penalty_begins_with_the_first_of_its_layers(tmp_path):
    trainer = make(tmp_path / "run", PENALISED)
    records = []
    while trainer.kimg < 0.2:
        records.append((trainer.kimg, trainer.step()))
    begun = [kimg for kimg, losses in records if "penalty" in losses]
    assert begun[0] == 0.096  # the first step past 0.064, where 8 pixels begin to fade in


def test_a_snapshot_while_growing_is_loaded_as_far_grown(tmp_path):
    trainer = make(tmp_path / "run")
    while trainer.kimg < 0.1:
        trainer.step()
    trainer.save()
    loaded = load_generator(trainer.run)
    assert loaded.lod == trainer.state.ema.lod > 1
    assert loaded(loaded.sample_latents(2)).shape[-1] == 8


def test_a_run_is_saved_as_far_grown_as_what_it_has_seen(tmp_path):
    """The last step before the end of a fade is still taken within it; what follows is complete."""
    trainer = make(tmp_path / "run")
    lods = []
    while trainer.kimg < 0.256:
        lods.append(trainer.state.generator.lod)
        trainer.step()
    assert 0 < lods[-1] < 1
    assert trainer.state.ema.lod == trainer.state.critic.lod == 0


def test_records_say_how_far_it_has_grown(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.train()
    assert [(record["kimg"], record["lod"]) for record in trainer.run.metrics()][1:4] == [
        (0.064, 2.0), (0.096, 1.5), (0.128, 1.0),
    ]  # fmt: skip


def test_gradients_are_measured_at_full_size(tmp_path, monkeypatch):
    trainer = make(tmp_path / "run")
    sizes, critic_loss = [], trainer._step._adversarial.critic_loss

    def watched(*arguments, pixel_size, **options):
        sizes.append(pixel_size)
        return critic_loss(*arguments, pixel_size=pixel_size, **options)

    monkeypatch.setattr(trainer._step._adversarial, "critic_loss", watched)
    while trainer.kimg < 0.3:
        trainer.step()
    assert sizes == [4] * 3 + [2] * 7 + [1] * 6


@pytest.mark.parametrize("layers", ["*", "blocks*"])
def test_containers_of_layers_do_no_harm(tmp_path, layers):
    """A glob may match the list of blocks too, which never runs itself."""
    trainer = make(
        tmp_path / "run", dataclasses.replace(PENALISED, penalty=PenaltyConfig(weight=1e-3, layers=(layers,)))
    )
    assert trainer.step()["penalty"] > 0


def test_a_fine_tuning_begins_fully_grown(tmp_path, small_dataset):
    config = dataclasses.replace(GROWING, total_kimg=0.3)
    first = start_run(config, small_dataset, tmp_path / "first", accelerator="cpu")
    first.train()
    second = start_run(config, small_dataset, tmp_path / "second", finetune=first.run, accelerator="cpu")
    second.step()
    assert second.state.generator.lod == 0
    assert second.config.growth.first_resolution == 16
    moments = second.state.generator_optimizer.state_dict()["state"][0]["step"]
    assert int(moments) == int(first.state.generator_optimizer.state_dict()["state"][0]["step"]) + 1  # not forgotten


def test_a_half_grown_run_is_not_fine_tuned(tmp_path, small_dataset):
    first = start_run(GROWING, small_dataset, tmp_path / "first", accelerator="cpu")
    while first.kimg < 0.1:
        first.step()
    first.save()
    with pytest.raises(UserError, match="has not grown to its full resolution yet: go on with it by --resume"):
        start_run(GROWING, small_dataset, tmp_path / "second", finetune=first.run, accelerator="cpu")
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_resolution": 6}, "growth.first_resolution must be a power of two from 4, got 6"),
        ({"first_resolution": 2}, "growth.first_resolution must be a power of two from 4, got 2"),
        ({"first_resolution": 32}, r"growth.first_resolution \(32\) is more than the generator's 16 pixels"),
        (
            {"stable_kimg": 0.128},
            r"total_kimg \(0.384\) must be more than the 0.384 kimg in which the generator grows",
        ),
        ({"stable_kimg": 0.0}, "growth.stable_kimg must be"),
        ({"fade_kimg": -1.0}, "growth.fade_kimg must be"),
        ({"batch_sizes": (8, 8)}, "growth.batch_sizes must name one value for each of the 3 resolutions .*; got 2"),
        ({"batch_sizes": (8, 0, 8)}, "growth.batch_sizes must be"),
        ({"learning_rates": (0.0, 1.0, 1.0)}, "growth.learning_rates must be"),
    ],
)
def test_mistakes_of_a_schedule(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(GROWING, growth=dataclasses.replace(GROWING.growth, **changes))
