"""Doubling or averaging in one convolution against two steps: CPU time of one thread, plain over fused.

    python benchmarks/fused_scaling.py [--rounds 3]

Channels last, as the networks use it; each pair in turns, ratios of medians. Columns: fused up and down, forward alone
and with gradients of input and parameters; pixels are the batch's at the lower resolution. Then whole generators, and
how far they deviate from one another in single precision.
"""

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from penalty import machine

from hessian_penalty.generators.equalized import EqualizedConv2d, EqualizedDownConv2d, EqualizedUpConv2d
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator, published_channels
from hessian_penalty.runs import write_json

RESULTS = Path(__file__).parent / "results" / "fused_scaling.json"
LAYERS = [
    (32, 96, 64, 4), (32, 64, 32, 8), (32, 32, 16, 16),  # batch, wide, narrow, lower resolution: the tiny network
    (4, 512, 512, 4), (4, 512, 512, 8), (4, 512, 512, 16), (4, 512, 256, 32), (4, 256, 128, 64),  # the published one
    (8, 512, 512, 4), (32, 512, 512, 4), (4, 96, 64, 4),
]  # fmt: skip
GENERATORS = {
    "tiny": (ProGANConfig(channels=(96, 64, 32, 16)), 32),
    "published": (ProGANConfig(channels=published_channels(128)), 4),
}


def gain(plain, fused, rounds):
    """Median CPU time of plain over that of fused."""
    times = {plain: [], fused: []}
    for turn in range(rounds + 1):  # the first warms up
        for step, taken in times.items():
            start = time.process_time()
            step()
            if turn:
                taken.append(time.process_time() - start)
    return round(statistics.median(times[plain]) / statistics.median(times[fused]), 2)


def gains(plain, fused, x, rounds):
    """Of the forward pass, and of one with gradients."""

    def forward(of):
        with torch.no_grad():
            of(x)

    def with_gradients(of):
        of(x).sum().backward()

    return [gain(lambda: step(plain), lambda: step(fused), rounds) for step in (forward, with_gradients)]  # noqa: B023


def layer_gains(batch, wide, narrow, side, rounds):
    """Gains of doubling, then of averaging."""
    up, down = EqualizedUpConv2d(wide, narrow), EqualizedDownConv2d(narrow, wide)
    found = []
    for fused, channels, resolution in ((up, wide, side), (down, narrow, 2 * side)):
        plain = EqualizedConv2d(*fused.weight.shape[1::-1], 3)
        plain.load_state_dict(fused.state_dict())
        for layer in (plain, fused):
            layer.to(memory_format=torch.channels_last)
        x = torch.randn(batch, channels, resolution, resolution).to(memory_format=torch.channels_last).requires_grad_()
        two_steps = (
            (lambda x, plain=plain: plain(F.interpolate(x, scale_factor=2)))
            if fused is up
            else (lambda x, plain=plain: F.avg_pool2d(plain(x), 2))
        )
        found += gains(two_steps, fused, x, rounds)
    return found


def generator_figures(config, batch, rounds):
    """Gains of a whole generator; deviations relative to the spread of its images."""
    plain, fused = (ProGANGenerator(replace(config, fused_scale=fused)) for fused in (False, True))
    fused.load_state_dict(plain.state_dict())
    z = plain.sample_latents(batch)
    forward, with_gradients = gains(plain, fused, z, rounds)
    with torch.no_grad():
        single = {"plain": plain(z).double(), "fused": fused(z).double()}
        exact = plain.double()(z.double())
    deviations = {f"{name}_from_float64": (images - exact).abs().max() for name, images in single.items()}
    return {
        "forward": forward,
        "with_gradients": with_gradients,
        **{name: float(f"{deviation / exact.std():.1e}") for name, deviation in deviations.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record = {"machine": machine(), "rounds": rounds, "layers": [], "generators": {}}
    print(
        "| batch | channels | pixels | of the batch | up | with gradients | down | with gradients |\n"
        + "|---" * 8
        + "|"
    )
    for batch, wide, narrow, side in LAYERS:
        found = layer_gains(batch, wide, narrow, side, rounds)
        record["layers"].append({"batch": batch, "channels": [wide, narrow], "resolution": side, "gains": found})
        cells = (batch, f"{wide}-{narrow}", f"{side}-{2 * side}", f"{batch * side**2:,}", *found)
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    for name, (config, batch) in GENERATORS.items():
        record["generators"][name] = generator_figures(config, batch, rounds)
        print(f"generator, {name}, batch {batch}: {record['generators'][name]}", flush=True)
    write_json(RESULTS, record)


if __name__ == "__main__":
    main()
