import dataclasses

import pytest
import torch
import torch.nn.functional as F

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig
from hessian_penalty.training import estimate as estimate_module
from hessian_penalty.training.arithmetic import (
    GPUS,
    UTILISATION,
    StepCost,
    UnknownImages,
    count_step,
    jump,
    kinds_of_step,
)
from hessian_penalty.training.config import GrowthConfig, PenaltyConfig, TrainingConfig
from hessian_penalty.training.estimate import estimate, parts
from hessian_penalty.training.schedule import phase_at
from hessian_penalty.training.trainer import Trainer

CONFIG = TrainingConfig(
    generator=ProGANConfig(latent_dim=3, channels=(8, 4)), total_kimg=0.096, batch_size=8, r1_interval=4, seed=1
)
WGAN = dataclasses.replace(CONFIG, loss="wgan-gp")
GROWING = dataclasses.replace(
    WGAN,
    generator=ProGANConfig(latent_dim=3, channels=(8, 4, 4), grows=True),
    growth=GrowthConfig(stable_kimg=10.0, fade_kimg=5.0, batch_sizes=(8, 6, 4)),
    total_kimg=100.0,
)
PENALTY = PenaltyConfig(weight=0.1, layers=("blocks.*.norm?",), start_kimg=1.0, ramp_kimg=3.0)


class RealFlop(torch.utils._python_dispatch.TorchDispatchMode):
    """What `arithmetic` counts, on tensors that have data."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        count = torch.utils.flop_counter.flop_registry.get(func.overloadpacket)
        if count:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def test_operations_of_a_convolution_and_its_second_derivative():
    x = torch.zeros(2, 3, 8, 8, requires_grad=True)
    weight = torch.zeros(5, 3, 3, 3, requires_grad=True)
    one = 2 * (2 * 8 * 8) * 3 * 5 * 9
    with RealFlop() as flop:
        y = F.conv2d(x, weight, padding=1)
        assert flop.total == one
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        assert flop.total == 2 * one
        gradient.square().sum().backward()  # two for the gradient's convolution, and two for the first one
    assert flop.total == 6 * one


def test_operations_of_a_critic_and_generator_by_hand():
    """One block, no penalties: G forward twice and backward in its weights and features, D likewise."""
    config = TrainingConfig(
        generator=ProGANConfig(latent_dim=3, channels=(8,)), batch_size=4, r1_gamma=0.0, r1_interval=1
    )
    dense, conv, image = 2 * 4 * 3 * 128, 2 * 4 * 16 * 8 * 8 * 9, 2 * 4 * 16 * 8 * 3
    read, judge, hidden, score = 2 * 4 * 16 * 3 * 8, 2 * 4 * 16 * 9 * 8 * 9, 2 * 4 * 128 * 8, 2 * 4 * 8
    inner = judge + hidden + score
    generator = 2 * (dense + conv + image) + dense + 2 * (conv + image)  # latents need no gradient
    critic = 2 * (read + 3 * inner) + 2 * 2 * read - 2 * read  # reals and fakes: all but the images' gradient
    through = 2 * (read + inner)  # forward, and back to the images
    assert count_step(config).flop == generator + critic + through


@pytest.mark.parametrize(
    "config",
    [CONFIG, WGAN, dataclasses.replace(WGAN, penalty=dataclasses.replace(PENALTY, start_kimg=0.0, ramp_kimg=0.0))],
    ids=["r1", "gradient penalty", "hessian"],
)
def test_operations_are_those_of_a_real_step(config):
    trainer = Trainer(config, UnknownImages((8, 3, 8, 8)), accelerator="cpu")
    trainer.step()
    flop = 0.0
    for index, share in kinds_of_step(config).items():
        jump(trainer.state, index)
        with RealFlop() as real:
            trainer.step()
        flop += share * real.total
    assert count_step(config).flop == pytest.approx(flop, rel=0.1 if config.penalty.enabled else 1e-12)


def test_memory_has_weights_gradients_and_moments_and_grows_linearly_with_the_batch():
    trainer = Trainer(CONFIG, UnknownImages((8, 3, 8, 8)), accelerator="cpu")
    generator, critic = (
        sum(p.numel() for p in m.parameters()) for m in (trainer.state.generator, trainer.state.critic)
    )
    peaks = [count_step(dataclasses.replace(WGAN, batch_size=n)).peak_bytes for n in (64, 128, 256)]
    assert peaks[2] - peaks[1] == pytest.approx(2 * (peaks[1] - peaks[0]), rel=0.02)
    kept = 2 * peaks[0] - peaks[1]
    assert 4 * (4 * generator + 3 * critic) < kept < 1.5 * 4 * (5 * generator + 4 * critic)


def test_kinds_of_step_have_their_shares():
    adaptive = dataclasses.replace(CONFIG, penalty=PenaltyConfig(adaptive=0.1, interval=2))
    shares = kinds_of_step(adaptive)  # R1 every 4th step, a penalty every 2nd, measured every 14th
    assert shares == pytest.approx({0: 1 / 28, 1: 14 / 28, 2: 6 / 28, 4: 6 / 28, 14: 1 / 28})
    assert kinds_of_step(dataclasses.replace(CONFIG, r1_gamma=0.0)) == {0: 1.0}


def test_a_growing_run_has_a_part_for_each_resolution():
    found = list(parts(dataclasses.replace(GROWING, penalty=PENALTY)))
    assert [kimg for kimg, _ in found] == [10.0, 15.0, 75.0]
    assert [config.batch_size for _, config in found] == [8, 6, 4]
    assert all(config.penalty.start_kimg == config.penalty.ramp_kimg == 0 for _, config in found)


def test_estimate_extrapolates_from_measured_steps():
    found, cost = estimate(CONFIG, accelerator="cpu", seconds=0.2), count_step(CONFIG)
    (stage,) = found.stages
    assert found.seconds == pytest.approx(96 / stage.images_per_second)
    assert set(found.parameters) == {"generator", "ema", "critic"}
    assert found.flop == pytest.approx(12 * cost.flop)
    assert (stage.measured_batch, stage.memory_measured, found.device) == (8, False, "cpu")
    assert stage.peak_bytes == cost.peak_bytes


def flop_by_pixels(config):
    resolution = phase_at(config, 0.0).resolution
    return StepCost(1e6 * config.batch_size * resolution**2, 1000 * config.batch_size)


@pytest.fixture
def gigaflops(monkeypatch):
    """A machine that does 10⁹ operations a second, each pixel needing a million."""
    monkeypatch.setattr(estimate_module, "count_step", flop_by_pixels)
    monkeypatch.setattr(estimate_module, "_time", lambda config, *_: (flop_by_pixels(config).flop / 1e9, 0))
    return monkeypatch


@pytest.mark.usefixtures("gigaflops")
def test_a_growing_run_costs_the_sum_of_its_parts():
    seen = []
    found = estimate(GROWING, accelerator="cpu", progress=lambda done, total, note: seen.append((done, total, note)))
    assert [stage.resolution for stage in found.stages] == [4, 8, 16]
    assert found.flop == pytest.approx(1e9 * (10 * 16 + 15 * 64 + 75 * 256))
    assert found.seconds == pytest.approx(found.flop / 1e9)
    assert found.peak_bytes == 8000  # at 4 pixels, where the batch is largest
    assert seen == [(0, 3, "4 pixels"), (1, 3, "8 pixels"), (2, 3, "16 pixels"), (3, 3, "")]


def test_large_batches_are_timed_small_and_their_rate_follows_from_the_operations(gigaflops):
    gigaflops.setattr(estimate_module, "STEP_FLOP", 6 * 64e6)
    (stage,) = estimate(CONFIG, accelerator="cpu").stages
    assert (stage.measured_batch, stage.batch_size, stage.peak_bytes) == (4, 8, 8000)
    assert stage.images_per_second == pytest.approx(1e9 / 64e6)
    gigaflops.setattr(estimate_module, "STEP_FLOP", 1.0)
    assert estimate(CONFIG, accelerator="cpu").stages[0].measured_batch == 2


def test_what_does_not_fit_is_timed_on_half_the_batch(gigaflops):
    def time(config, *_):
        if config.batch_size > 2:
            raise torch.OutOfMemoryError("full")
        return 1.0, 5

    gigaflops.setattr(estimate_module, "_time", time)
    (stage,) = estimate(CONFIG, accelerator="cpu").stages
    assert (stage.measured_batch, stage.memory_measured, stage.peak_bytes) == (2, False, 8000)
    gigaflops.setattr(estimate_module, "_time", lambda *_: (1.0, 5))
    (stage,) = estimate(CONFIG, accelerator="cpu").stages
    assert (stage.measured_batch, stage.memory_measured, stage.peak_bytes) == (8, True, 5)


def test_an_unknown_device_is_named():
    with pytest.raises(UserError, match="accelerator 'abacus'"):
        estimate(CONFIG, accelerator="abacus")


def test_hours_of_a_gpu():
    (a100,) = (gpu for gpu in GPUS if gpu.name.startswith("A100"))
    assert a100.hours(19.5e12 * 3600) == pytest.approx(1 / UTILISATION)
