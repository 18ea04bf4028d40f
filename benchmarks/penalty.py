"""The penalty's loss and gradient against its textbook form, in one run: ratios, not seconds.

    python benchmarks/penalty.py [--batch 16] [--rounds 3]

Textbook form: 2k + 1 passes of the batch with their graphs kept, all layers, as the definition is written down.
"""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch

from hessian_penalty import hessian_penalty
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator

RESULTS = Path(__file__).parent / "results" / "penalty.json"


def activations(generator, z):
    """The normalised activations of every layer, and the images, as a rewritten forward pass would return them."""
    found = []
    layers = [module for name, module in generator.named_modules() if name.split(".")[-1].startswith("norm")]
    handles = [layer.register_forward_hook(lambda module, inputs, output: found.append(output)) for layer in layers]
    generator(z)
    for handle in handles:
        handle.remove()
    return found


def textbook(generator, z, k=2, epsilon=0.1):
    centre = activations(generator, z)
    seconds = []
    for _ in range(k):
        v = torch.randint(0, 2, z.shape).mul(2).sub(1).to(z)
        plus, minus = activations(generator, z + epsilon * v), activations(generator, z - epsilon * v)
        seconds.append([(p - 2 * c + m) / epsilon**2 for p, c, m in zip(plus, centre, minus, strict=True)])
    return sum(torch.stack(layer).var(dim=0).max() / 2 for layer in zip(*seconds, strict=True))


def seconds_of(loss_of, generator, z):
    generator.zero_grad(set_to_none=True)
    start = time.perf_counter()
    loss_of(generator, z).backward()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    generator = ProGANGenerator(ProGANConfig(channels=(256, 256, 256, 256, 128)))  # 64 pixels
    z = generator.sample_latents(arguments.batch)
    forms = {
        "textbook": textbook,
        "dense": lambda g, z: hessian_penalty(g, z, layers="*.norm?", gradient="dense"),
        "sparse": lambda g, z: hessian_penalty(g, z, layers="*.norm?", gradient="sparse"),
    }
    times = {name: [] for name in forms}
    for round_ in range(arguments.rounds + 1):  # the first warms up
        for name, form in forms.items():
            taken = seconds_of(form, generator, z)
            if round_:
                times[name].append(taken)
    ratios = {
        name: statistics.median(a / b for a, b in zip(times["textbook"], times[name], strict=True)) for name in forms
    }
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    record = {"batch": arguments.batch, "resolution": 64, "times_faster_than_textbook": ratios, "machine": machine}
    for name, ratio in ratios.items():
        print(f"{name:>9}: {ratio:.2f} times the speed of the textbook form (loss + gradient, max, k = 2, all layers)")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
