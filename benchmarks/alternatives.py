"""What else the machine gives the penalty, and what it does not: CPU time of one thread, as ratios.

python benchmarks/alternatives.py [--batch 16] [--rounds 5]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from penalty import LAYERS, NETWORK, machine

from hessian_penalty import hessian_penalty
from hessian_penalty.generators.progan import ProGANGenerator

RESULTS = Path(__file__).parent / "results" / "alternatives.json"


def seconds(step, rounds):
    """The median of the CPU time of a step, after one to warm up."""
    step()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = ProGANGenerator(NETWORK)
    z = generator.sample_latents(arguments.batch)
    probes = torch.randint(0, 2, (2, *z.shape)).mul(2).sub(1).to(z)
    record = {"machine": machine(), "batch": arguments.batch}

    def loss_and_gradient(chunk_size):
        generator.zero_grad(set_to_none=True)
        hessian_penalty(generator, z, layers=LAYERS, probes=probes, chunk_size=chunk_size).backward()

    one_corner = seconds(lambda: loss_and_gradient(None), arguments.rounds)
    for corners in (2, 4):
        ratio = seconds(lambda c=corners: loss_and_gradient(c * arguments.batch), arguments.rounds) / one_corner
        record[f"loss and gradient, {corners} corners a pass, over one"] = round(ratio, 2)
    with torch.no_grad():
        forward = seconds(lambda: generator(z), arguments.rounds)
        contiguous = ProGANGenerator(NETWORK).to(memory_format=torch.contiguous_format)
        compiled = torch.compile(generator)
        for name, step in {"not channels-last": lambda: contiguous(z), "compiled": lambda: compiled(z)}.items():
            record[f"forward pass, {name}"] = round(seconds(step, arguments.rounds) / forward, 2)
        with torch.inference_mode():
            record["forward pass, inference mode"] = round(seconds(lambda: generator(z), arguments.rounds) / forward, 2)
    for name, value in record.items():
        print(f"{name}: {value}")
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
