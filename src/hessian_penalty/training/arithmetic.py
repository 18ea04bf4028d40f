"""What a run costs by arithmetic: its operations and tensors, counted without computing any of them."""

import itertools
import math
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hessian_penalty.generators.growing import Growing
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.generators.progan_critic import ProGANCritic
from hessian_penalty.penalty.adaptive import AdaptiveWeight
from hessian_penalty.penalty.known_functions import remember_function
from hessian_penalty.training.checkpoints import TrainingState
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.regularization import make_penalty
from hessian_penalty.training.step import TrainingStep

UTILISATION = 0.4  # of a GPU's peak that a run is assumed to reach


@dataclass(frozen=True)
class GPU:
    """One GPU, by its maker's figures.

    Args:
        name: what it is called.
        teraflops: peak in 10¹² float32 operations a second, dense, without TF32 and tensor cores.
        gigabytes: memory.
    """

    name: str
    teraflops: float
    gigabytes: int

    def hours(self, flop: float) -> float:
        """Hours for so many operations at `UTILISATION` of the peak.

        >>> round(GPU("one that does 1 PFLOP in an hour", 1e3 / 3600 / UTILISATION, 1).hours(1e15), 9)
        1.0
        """
        return flop / (self.teraflops * 1e12 * UTILISATION) / 3600


GPUS = (
    GPU("NVIDIA T4", 8.1, 16),
    GPU("V100 SXM2", 15.7, 32),
    GPU("A100 SXM", 19.5, 80),
    GPU("RTX 3090", 35.6, 24),
    GPU("H100 SXM", 67.0, 80),
    GPU("RTX 4090", 82.6, 24),
)


@dataclass(frozen=True)
class StepCost:
    """What a step costs: on average over the kinds of step, and at most.

    Args:
        flop: floating-point operations of matrix products and convolutions, a multiplication and an addition being two.
        peak_bytes: of all tensors alive at once: parameters, gradients, Adam's moments, moving average, activations.
    """

    flop: float
    peak_bytes: int


class UnknownImages:
    """Noise of the right shape: the cost does not depend on what the pictures show.

    Args:
        shape: (N, C, H, W).
    """

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self._shape = shape

    def __len__(self) -> int:
        return self._shape[0]

    def batch(self, indices: Any, resolution: int | None = None) -> Tensor:
        """So many of them, uniform in [-1, 1]."""
        return torch.rand(len(indices), *self._shape[1:]).mul_(2).sub_(1)


class _Counting(TorchDispatchMode):
    """Adds up the operations on tensors without data and what these would take, and answers when one's value is read.

    Any number is 1, so that checks of finite losses and positive variances pass. Integers, the samples in which a
    penalty has its maxima, take turns below `batch_size`: the most there can be of them. Tensors with data, the level
    of detail and the states of random generators, are computed with.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch leaves its mode untyped
        self.flop = self.bytes = self.peak_bytes = 0
        self._samples = itertools.cycle(range(batch_size))
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if given and not any(isinstance(tensor, FakeTensor) for tensor in given):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func is torch.ops.aten._local_scalar_dense.default:
            return next(self._samples) if given[0].dtype == torch.int64 else 1.0
        out = func(*args, **kwargs)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.flop += count(*args, **kwargs, out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.bytes += size
            self.peak_bytes = max(self.peak_bytes, self.bytes)
            weakref.finalize(storage, self._remove, key, size).atexit = False

    def _remove(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.bytes -= size


def kinds_of_step(config: TrainingConfig) -> dict[int, float]:
    """The steps that differ, by R1, the penalty and a measurement of its adaptive weight, and the share of each kind.

    >>> kinds_of_step(TrainingConfig(r1_interval=8)), kinds_of_step(TrainingConfig(loss="wgan-gp"))
    ({0: 0.125, 1: 0.875}, {0: 1.0})
    """
    penalty = config.penalty.interval if config.penalty.enabled else 1
    periods = (
        config.r1_interval if config.loss == "logistic" and config.r1_gamma else 1,
        penalty,
        penalty * AdaptiveWeight.INTERVAL if config.penalty.adaptive else penalty,
    )
    cycle = math.lcm(*periods)
    steps: dict[tuple[bool, ...], list[int]] = {}
    for index in range(cycle):
        steps.setdefault(tuple(index % period == 0 for period in periods), []).append(index)
    return {same[0]: len(same) / cycle for same in steps.values()}


def jump(state: TrainingState, step: int) -> None:
    """Let the next step be of the kind of this one."""
    state.steps = step
    if state.penalty is not None:
        counters = state.penalty.state_dict() | {"calls": float(step)}
        if "adaptive_steps" in counters:
            counters["adaptive_steps"] = float(step // state.penalty.interval)
        state.penalty.load_state_dict(counters)


def _allocate(network: Growing) -> None:
    """Move the weights of a network from "meta" to tensors that count, as `Module.to` cannot."""
    for module in network.modules():
        for name, weights in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(weights.shape)))


def count_step(config: TrainingConfig) -> StepCost:
    r"""Count the operations and the memory of a step of this run at its beginning, at its true batch size.

    The configuration's own steps run, critic, generator and penalty with all their derivatives, on PyTorch's
    fake tensors: each operation yields a tensor that knows its shape alone. Convolutions and matrix products
    are counted, :math:`2 N H W C_{in} C_{out} k^2` for a convolution with a k×k kernel and as many for each of its
    derivatives; all else is a few percent of that in time or less. Memory is what would be allocated at the peak,
    without the scratch space of the convolutions and in float32, whatever the precision.

    Args:
        config: the run.
    """
    resolution = config.growth.first_resolution if config.generator.grows else config.generator.resolution
    images = UnknownImages((config.batch_size, config.generator.image_channels, resolution, resolution))
    with torch.device("meta"):
        generator, ema = ProGANGenerator(config.generator), ProGANGenerator(config.generator)
        critic = ProGANCritic(config.generator, code_dim=config.infogan.latents)
    networks = generator, ema, critic
    if config.generator.grows:
        for network in networks:
            network.level_of_detail = torch.zeros(())
    with FakeTensorMode(allow_non_fake_inputs=True), _Counting(config.batch_size) as count:
        for network in networks:
            _allocate(network)
        penalty = make_penalty(config.penalty, generator, ema)
        if penalty:
            remember_function(penalty.G)  # a check that is made once, not in every step
        state = TrainingState(
            generator, critic, ema, torch.optim.Adam(generator.parameters()), torch.optim.Adam(critic.parameters()),
            torch.Generator(), penalty,
        )  # fmt: skip
        step = TrainingStep(config, state, Fabric(accelerator="cpu", devices=1))
        step(images)  # in which the optimisers make their moments
        count.peak_bytes, flop = count.bytes, 0.0
        for index, share in kinds_of_step(config).items():
            jump(state, index)
            before = count.flop
            step(images)
            flop += share * (count.flop - before)
    return StepCost(flop, count.peak_bytes)
