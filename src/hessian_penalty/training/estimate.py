"""What a run would cost: a few real steps, timed, and the memory they took."""

import math
import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.trainer import Trainer


@dataclass(frozen=True)
class Estimate:
    """Cost of a run on this machine.

    Args:
        images_per_second: measured over `steps` steps.
        seconds: for the whole run at that rate.
        peak_bytes: of the accelerator (0 where it does not tell), or of the process where there is none.
        parameters: of generator, its moving average and critic.
        device: where it was measured.
    """

    images_per_second: float
    seconds: float
    peak_bytes: int
    parameters: dict[str, int]
    device: str


class _RandomImages:
    """Noise of the right shape: the cost does not depend on what the pictures show."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._images = torch.rand(shape).mul(2).sub(1)

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, indices: Any, resolution: int | None = None) -> Tensor:
        return self._images[torch.as_tensor(indices)]


def _peak_bytes(device: torch.device) -> int:
    if device.type != "cpu":
        measure = getattr(torch.get_device_module(device), "max_memory_allocated", None)
        return int(measure(device)) if measure else 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def estimate(
    config: TrainingConfig, *, accelerator: str = "auto", precision: Any = "32-true", seconds: float = 10.0
) -> Estimate:
    """Run the configuration's own steps on noise for about `seconds` and extrapolate to `total_kimg`.

    The penalty is measured at its full weight, whatever its start and ramp. Terms that come every i-th step,
    R1 and the penalty, are timed over whole cycles.
    """
    full = replace(config, penalty=replace(config.penalty, start_kimg=0.0, ramp_kimg=0.0))
    generator = config.generator
    shape = (config.batch_size, generator.image_channels, generator.resolution, generator.resolution)
    trainer = Trainer(full, _RandomImages(shape), accelerator=accelerator, precision=precision)
    trainer.step()  # allocation and warm-up, with R1: the first step has it
    cycle = math.lcm(config.r1_interval, config.penalty.interval)
    start, steps = time.perf_counter(), 0
    while steps == 0 or steps % cycle or time.perf_counter() - start < seconds:
        trainer.step()
        steps += 1
    rate = steps * config.batch_size / (time.perf_counter() - start)
    return Estimate(
        images_per_second=rate,
        seconds=config.total_kimg * 1000 / rate,
        peak_bytes=_peak_bytes(trainer.fabric.device),
        parameters={
            name: sum(p.numel() for p in module.parameters()) for name, module in trainer.state.networks.items()
        },
        device=str(trainer.fabric.device),
    )
