"""What a run would cost: real steps at each resolution, timed, and the rest by arithmetic."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from hessian_penalty.training.arithmetic import StepCost, UnknownImages, count_step, jump, kinds_of_step
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.schedule import phase_at
from hessian_penalty.training.trainer import Trainer

STEP_FLOP = 2.5e11  # of a timed step on a CPU, at most: some seconds on a core
FOREVER_KIMG = 1e9  # longer than any run
SMALLEST_BATCH = 2  # a variance over the batch needs them

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Stage:
    """Cost of the part of a run that has one resolution.

    Args:
        resolution: pixels.
        kimg: thousands of images at it.
        batch_size: images a step.
        measured_batch: images a step where it was timed; fewer where `batch_size` would take too long, or does not fit.
        images_per_second: at `batch_size`, from the measured operations a second, which are taken to be the same.
        flop: counted operations of the whole stage.
        peak_bytes: memory of a step of `batch_size`.
        memory_measured: on the accelerator; else counted.
    """

    resolution: int
    kimg: float
    batch_size: int
    measured_batch: int
    images_per_second: float
    flop: float
    peak_bytes: int
    memory_measured: bool

    @property
    def seconds(self) -> float:
        """Time that the stage takes on this machine."""
        return self.kimg * 1000 / self.images_per_second


@dataclass(frozen=True)
class Estimate:
    """Cost of a run on this machine, and its operations, by which it can be told for others.

    Args:
        stages: from the smallest to the largest images.
        parameters: of generator, its moving average and critic.
        device: where it was measured.
    """

    stages: tuple[Stage, ...]
    parameters: dict[str, int]
    device: str

    @property
    def seconds(self) -> float:
        """Time of the whole run on this machine."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def flop(self) -> float:
        """Operations of the whole run."""
        return sum(stage.flop for stage in self.stages)

    @property
    def peak_bytes(self) -> int:
        """Memory of the stage that needs most."""
        return max(stage.peak_bytes for stage in self.stages)


def parts(config: TrainingConfig) -> Iterator[tuple[float, TrainingConfig]]:
    """The resolutions of a run: thousands of images, and the settings of a run that stays there, at full weight.

    A resolution counts from the beginning of its fading in. It is represented by its network faded in: the last
    resolution is so nearly always, and while one fades in, only a second image layer of 1×1 convolutions comes to it.
    """
    config = replace(config, penalty=replace(config.penalty, start_kimg=0.0, ramp_kimg=0.0))
    if not config.generator.grows:
        yield config.total_kimg, config
        return
    growth, start = config.growth, 0.0
    resolution, end = growth.first_resolution, growth.stable_kimg
    while start < config.total_kimg:
        end = end if resolution < config.generator.resolution else config.total_kimg
        here = replace(growth, first_resolution=resolution)
        phase = phase_at(replace(config, growth=here), 0.0)
        staying = replace(here, stable_kimg=FOREVER_KIMG, fade_kimg=0.0, batch_sizes=())
        yield (
            end - start,
            replace(config, growth=staying, total_kimg=100 * FOREVER_KIMG, batch_size=phase.batch_size),
        )
        start, end, resolution = end, end + growth.fade_kimg + growth.stable_kimg, 2 * resolution


def estimate(
    config: TrainingConfig,
    *,
    accelerator: str = "auto",
    precision: Any = "32-true",
    seconds: float = 10.0,
    progress: Progress = lambda done, total, note: None,
) -> Estimate:
    """Run the configuration's own steps on noise for about `seconds`, at each resolution, and extrapolate.

    A step of each kind is timed at least, with R1 and without, and weighed by how often it comes; the penalty has its
    full weight, whatever its start, ramp and growth. On a CPU batches that would take more than some seconds are
    replaced by smaller ones: the operations a second are then taken to be the same for the whole batch, and memory is
    counted always. On an accelerator both are measured with the whole batch where it fits.

    Args:
        config: the run.
        accelerator, precision: passed to Lightning Fabric.
        seconds: for timing in all; more, where one step of each kind takes longer.
        progress: told of stages done, their number, and what comes now.

    Raises:
        UserError: there is no such accelerator, or a loss is not finite.
    """
    first = Trainer(config, UnknownImages((1, 3, 1, 1)), accelerator=accelerator, precision=precision)
    device = first.fabric.device
    parameters = {name: sum(p.numel() for p in module.parameters()) for name, module in first.state.networks.items()}
    del first
    found, stages = list(parts(config)), []
    for index, (kimg, whole) in enumerate(found):
        progress(index, len(found), f"{phase_at(whole, 0.0).resolution} pixels")
        cost = count_step(whole)
        timed, timed_cost = _affordable(whole, cost) if device.type == "cpu" else (whole, cost)
        while True:
            try:
                step_seconds, peak = _time(timed, accelerator, precision, seconds / len(found))
                break
            except torch.OutOfMemoryError:
                if timed.batch_size == 1:
                    raise
                timed = replace(timed, batch_size=timed.batch_size // 2)
                timed_cost = count_step(timed)
        images_per_second = timed_cost.flop / step_seconds / cost.flop * whole.batch_size
        measured = peak > 0 and timed.batch_size == whole.batch_size
        stages.append(
            Stage(
                resolution=phase_at(whole, 0.0).resolution,
                kimg=kimg,
                batch_size=whole.batch_size,
                measured_batch=timed.batch_size,
                images_per_second=images_per_second,
                flop=cost.flop / whole.batch_size * kimg * 1000,
                peak_bytes=peak if measured else cost.peak_bytes,
                memory_measured=measured,
            )
        )
    progress(len(found), len(found), "")
    return Estimate(tuple(stages), parameters, str(device))


def _affordable(config: TrainingConfig, cost: StepCost) -> tuple[TrainingConfig, StepCost]:
    """The largest half, quarter, … of the batch whose step stays below `STEP_FLOP`."""
    batch_size = config.batch_size
    while cost.flop * batch_size / config.batch_size > STEP_FLOP and batch_size // 2 >= SMALLEST_BATCH:
        batch_size //= 2
    if batch_size == config.batch_size:
        return config, cost
    smaller = replace(config, batch_size=batch_size)
    return smaller, count_step(smaller)


def _time(config: TrainingConfig, accelerator: str, precision: Any, seconds: float) -> tuple[float, int]:
    """Seconds of a step, on average over its kinds, and the accelerator's peak memory: 0 where it does not tell."""
    resolution = phase_at(config, 0.0).resolution
    images = UnknownImages((config.batch_size, config.generator.image_channels, resolution, resolution))
    trainer = Trainer(config, images, accelerator=accelerator, precision=precision)
    device = trainer.fabric.device
    module = torch.get_device_module(device)
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)

    def timed(step: int) -> float:
        jump(trainer.state, step)
        start = time.perf_counter()
        trainer.step()
        module.synchronize()
        return time.perf_counter() - start

    kinds = kinds_of_step(config)
    first = timed(0)
    spent, rounds = dict.fromkeys(kinds, 0.0), 0
    while rounds == 0 or sum(spent.values()) < seconds:
        for step in kinds:  # allocation and warm-up hardly matter in a long first step
            spent[step] += first if step == rounds == 0 and first > seconds else timed(step)
        rounds += 1
    peak = module.max_memory_allocated(device) if hasattr(module, "max_memory_allocated") else 0
    return sum(share * spent[step] for step, share in kinds.items()) / rounds, int(peak)
