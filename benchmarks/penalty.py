"""The penalty against its textbook form, in one run: time of loss and gradient, peak memory, a training iteration.

    python benchmarks/penalty.py [--batches 16 64] [--rounds 3] [--training-steps 8]

Textbook form: 2k + 1 passes of the batch with their graphs kept, all layers, as the definition is written down. All is
a ratio to it, measured in turns; times are loss plus gradient over all parameters of a ProGAN generator at 64 pixels.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from hessian_penalty import HessianPenalty, hessian_penalty
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "penalty.json"
NETWORK = ProGANConfig(channels=(128, 128, 128, 128, 64))  # 64 pixels, a quarter of the published widths
LAYERS = "blocks.*.norm?"  # all ten
FIRST_LAYERS = "blocks.[0-3].norm?"  # all but the last block's, as published: 10 of 13 at 128 pixels


def activations(generator, z, layers=LAYERS):
    """The normalised activations of the layers, as a rewritten forward pass would return them."""
    found = []
    last = 4 if layers == FIRST_LAYERS else 5
    norms = [norm for block in generator.blocks[:last] for norm in (block.norm0, block.norm1)]
    handles = [norm.register_forward_hook(lambda module, inputs, output: found.append(output)) for norm in norms]
    generator(z)
    for handle in handles:
        handle.remove()
    return found


def slow_variance(stacked):
    return torch.var(stacked, dim=0)


def written_out_variance(stacked):
    deviations = stacked - stacked.mean(dim=0)
    return deviations.square().sum(dim=0) / (len(stacked) - 1)


def textbook(generator, z, *, reduction="max", variance=slow_variance, centre=None, k=2, epsilon=0.1, layers=LAYERS):
    """The definition: (G(z + e v) - 2 G(z) + G(z - e v)) / e^2 for k probes, half its variance, reduced and summed."""
    centre = centre or activations(generator, z, layers)
    seconds = []
    for _ in range(k):
        v = torch.randint(0, 2, z.shape).mul(2).sub(1).to(z)
        plus, minus = activations(generator, z + epsilon * v, layers), activations(generator, z - epsilon * v, layers)
        seconds.append([(p - 2 * c + m) / epsilon**2 for p, c, m in zip(plus, centre, minus, strict=True)])
    reduce = {"max": torch.max, "mean": torch.mean}[reduction]
    return sum(reduce(variance(torch.stack(layer)) / 2) for layer in zip(*seconds, strict=True))


Step = Callable[[], None]
Prepare = Callable[[ProGANGenerator, Tensor], Step]


def of_loss(loss_of: Callable[[ProGANGenerator, Tensor], Tensor]) -> Prepare:
    """The step of a loss that is all there is."""
    return lambda G, z: lambda: loss_of(G, z).backward()


def forms(reduction: str) -> dict[str, Prepare]:
    """What is compared: each takes a generator and latents, prepares, and returns the step to be measured."""
    compared = {
        "textbook": of_loss(lambda G, z: textbook(G, z, reduction=reduction)),
        "textbook, variance written out": of_loss(
            lambda G, z: textbook(G, z, reduction=reduction, variance=written_out_variance)
        ),
        "dense": of_loss(lambda G, z: hessian_penalty(G, z, layers=LAYERS, gradient="dense", reduction=reduction)),
    }
    if reduction == "max":
        compared["sparse"] = of_loss(lambda G, z: hessian_penalty(G, z, layers=LAYERS))
    return compared


def steps_with_images(reduction: str) -> dict[str, Prepare]:
    """A generator's step that needs the images anyway: alone, and with the penalty given G(z)."""

    def textbook_given(G: ProGANGenerator, z: Tensor) -> Tensor:
        found = []
        norms = [norm for block in G.blocks for norm in (block.norm0, block.norm1)]
        handles = [norm.register_forward_hook(lambda module, inputs, output: found.append(output)) for norm in norms]
        images = G(z)
        for handle in handles:
            handle.remove()
        penalty = textbook(G, z, reduction=reduction, variance=written_out_variance, centre=found)
        return images.square().mean() + penalty

    def generated(G: ProGANGenerator, z: Tensor) -> Tensor:
        penalty = HessianPenalty(G, weight=1.0, layers=LAYERS, reduction=reduction)
        return penalty.generate(z).square().mean() + penalty(z)

    return {
        "images alone": of_loss(lambda G, z: G(z).square().mean()),
        "textbook, variance written out": of_loss(textbook_given),
        "generate": of_loss(generated),
    }


def seconds_of(prepare, generator, z):
    generator.zero_grad(set_to_none=True)
    step = prepare(generator, z)
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def peak_mebibytes(prepare, generator, z):
    """The most memory held at once by tensors beyond what is there before the step, gradients included."""
    generator.zero_grad(set_to_none=True)
    step = prepare(generator, z)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    held = peak = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def measured(compared: dict[str, Prepare], batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of every form, in turns."""
    torch.manual_seed(0)
    generator = ProGANGenerator(NETWORK)
    z = generator.sample_latents(batch)
    for prepare in compared.values():
        seconds_of(prepare, generator, z[:4])  # warms up
    times: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(rounds):
        for name, prepare in compared.items():
            times[name].append(seconds_of(prepare, generator, z))
    return times


def compare(reduction: str, batch: int, rounds: int) -> dict[str, dict[str, float]]:
    """Times faster than the textbook form, and peak memory as a share of its."""
    compared = forms(reduction)
    times = measured(compared, batch, rounds)
    torch.manual_seed(0)
    generator = ProGANGenerator(NETWORK)
    z = generator.sample_latents(batch)
    memory = {name: peak_mebibytes(prepare, generator, z) for name, prepare in compared.items()}
    found = {}
    for name in compared:
        slow, written_out = (
            statistics.median(a / b for a, b in zip(times[of], times[name], strict=True))
            for of in ("textbook", "textbook, variance written out")
        )
        share = memory[name] / memory["textbook"]
        found[name] = {
            "times_faster": round(slow, 2),
            "times_faster_than_with_variance_written_out": round(written_out, 2),
            "peak_memory_share": round(share, 3),
            "peak_mebibytes": round(memory[name], 1),
        }
        print(
            f"  {name:<32} {slow:5.2f} times faster ({written_out:5.2f} with the textbook's variance written out), "
            f"peak memory {memory[name]:6.0f} MiB, {share:6.1%}",
            flush=True,
        )
    return found


def compare_given_images(reduction: str, batch: int, rounds: int) -> float:
    """What the penalty adds to a step that has G(z) anyway: the textbook form's addition over ours."""
    times = measured(steps_with_images(reduction), batch, rounds)
    alone, theirs, ours = times.values()
    ratio = statistics.median((b - a) / (c - a) for a, b, c in zip(alone, theirs, ours, strict=True))
    print(
        f"  batch {batch}, given G(z): {ratio:.2f} times less is added than by the textbook form, written out",
        flush=True,
    )
    return round(ratio, 2)


class TextbookPenalty:
    """The textbook form where the trainer has its regulariser."""

    value, last_weight = None, 0.1

    def __init__(self, generator, layers):
        self.generator, self.layers = generator, layers

    def generate(self, z, kimg=None):
        return self.generator(z)

    def __call__(self, z, kimg=None, main_loss=None, rng=None, layer_weights=None):
        return 0.1 * textbook(self.generator, z, variance=written_out_variance, layers=self.layers)

    def state_dict(self):
        return {}


class Noise:
    """Pictures that cost nothing to load."""

    def __len__(self):
        return 1000

    def batch(self, indices, resolution=None):
        return torch.rand(len(indices), 3, 64, 64) * 2 - 1


def training_iterations(batch: int, steps: int) -> dict[str, float]:
    """Time of a whole iteration with the penalty over one without, a gradient penalty of the critic included."""
    arms: dict[str, Trainer] = {}
    for name, options in {
        "without": {},
        "all layers": {"layers": (LAYERS,)},
        "all layers, interval 4": {"layers": (LAYERS,), "interval": 4},
        "textbook, all layers": {"textbook": LAYERS},
        "all but the last block": {"layers": (FIRST_LAYERS,)},
        "all but the last block, interval 4": {"layers": (FIRST_LAYERS,), "interval": 4},
        "textbook, all but the last block": {"textbook": FIRST_LAYERS},
    }.items():
        of_textbook = options.pop("textbook", None)
        penalty = PenaltyConfig(weight=0.1, **options) if options else PenaltyConfig()
        arms[name] = Trainer(TrainingConfig(generator=NETWORK, batch_size=batch, penalty=penalty), Noise())
        if of_textbook:
            arms[name].state.penalty = TextbookPenalty(arms[name].state.generator, of_textbook)
    times = dict.fromkeys(arms, 0.0)
    for step in range(-1, steps):  # the first warms up
        for name, trainer in arms.items():
            if step == 0 and name.endswith("4"):
                trainer.state.penalty._calls = 0
            trainer.state.steps = max(step, 0)
            start = time.perf_counter()
            trainer.step()
            times[name] += (time.perf_counter() - start) * (step >= 0)
    ratios = {name: round(taken / times["without"], 3) for name, taken in times.items()}
    for name, ratio in ratios.items():
        print(f"  {name:<36} {ratio:5.2f}", flush=True)
    return ratios


def machine() -> str:
    """What it ran on."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    parser.add_argument("--training-steps", type=int, default=8, help="0 skips the training iterations")
    arguments = parser.parse_args()
    record: dict[str, object] = {"machine": machine(), "resolution": 64, "k": 2, "rounds": arguments.rounds}
    for reduction in ("max", "mean"):
        for batch in arguments.batches:
            print(f"loss and gradient, {reduction}, batch {batch}, against the textbook form (2k + 1 passes)")
            record[f"{reduction}, batch {batch}"] = compare(reduction, batch, arguments.rounds)
        batch = arguments.batches[0]
        record[f"{reduction}, batch {batch}, given G(z): times less added"] = compare_given_images(
            reduction, batch, arguments.rounds
        )
    if arguments.training_steps:
        print("a training iteration, against one without penalty")
        record["training iteration, batch 16"] = training_iterations(16, arguments.training_steps)
    RESULTS.parent.mkdir(exist_ok=True)
    partial = RESULTS.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(partial, RESULTS)


if __name__ == "__main__":
    main()
