"""What the plain penalty and the scale-free one do to an autoencoder, whose code's scale is learned.

    python benchmarks/scale_autoencoder.py [--seed 0] [--out FILE]

An autoencoder is trained without the penalty, then on from there with each of its forms, at fixed and adaptive weights.
"""

import argparse
import copy
import platform
import tempfile
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from hessian_penalty import HessianPenalty, hessian_penalty
from hessian_penalty.penalty import hessian_energy, off_diagonal_share
from hessian_penalty.penalty.adaptive import gradient_norm
from hessian_penalty.runs import write_json
from hessian_penalty.studies.demo_assets import unpack_data

RESULTS = Path(__file__).parent / "results" / "scale_autoencoder.json"

CODE, BATCH, STEPS = 8, 64, 600  # components; images a step; steps, first without the penalty and then with it
INNER = "act1"  # decoder activations whose scale is free: the next layer can undo it
BOTH = {"scale_free": True, "scale_epsilon": True}
ARMS = {  # `start`: a fixed weight, at which the gradient is this fraction of the main one at the start
    "no penalty": {"start": 0.0},
    "plain, fixed": {"start": 1.0},
    "plain, adaptive": {"adaptive": 0.5},
    "scale-free, fixed": {"start": 1.0, **BOTH},
    "scale-free, adaptive": {"adaptive": 0.5, **BOTH},
    "plain, fixed, inner": {"start": 1.0, "layers": INNER},
    "scale-free, adaptive, inner": {"adaptive": 0.5, "layers": INNER, **BOTH},
}


def autoencoder():
    """Encoder and decoder for 16 pixels, 8 components: convolutions without normalisation, as users have them."""
    encoder = nn.Sequential(
        nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(16, 32, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Flatten(), nn.Linear(512, CODE),
    )  # fmt: skip
    decoder = nn.Sequential(
        OrderedDict(
            dense=nn.Linear(CODE, 512), act0=nn.LeakyReLU(0.2), unflatten=nn.Unflatten(1, (32, 4, 4)),
            conv1=nn.ConvTranspose2d(32, 16, 4, 2, 1), act1=nn.LeakyReLU(0.2),
            conv2=nn.ConvTranspose2d(16, 3, 4, 2, 1),
        )
    )  # fmt: skip
    return nn.ModuleList([encoder, decoder])


@torch.no_grad()
def measures(networks, images, settings):
    """What one can see of an autoencoder at held-out images; the penalties at fixed signs."""
    encoder, decoder = networks
    code = encoder(images)
    spread = code.std(dim=0)
    inner = decoder[: list(dict(decoder.named_children())).index(INNER) + 1](code)
    variance = decoder(code).var(dim=0).mean()
    energy = hessian_energy(lambda w: decoder(w * spread), code[:64] / spread) / variance

    def penalty(**settings):
        rng = torch.Generator().manual_seed(0)
        return float(hessian_penalty(decoder, code[:256], k=4, reduction="mean", rng=rng, **settings))

    return {
        "penalty": penalty(**settings),
        "scale_free_penalty": penalty(**BOTH, layers=settings.get("layers")),
        "code_std": float(spread.mean()),
        "output_std": float(variance.sqrt()),
        "inner_std": float(inner.var(dim=0).mean().sqrt()),
        "error": float((decoder(code) - images).square().mean()),
        "diagonal": float(energy.diagonal().sum()),
        "off_diagonal": float(energy.sum() - energy.diagonal().sum()),
        "off_diagonal_share": off_diagonal_share(energy),
    }


def train(networks, images, held_out, seed, *, start=0.0, adaptive=None, **settings):
    """Train with a penalty; returns its weight and what was seen at some steps."""
    encoder, decoder = networks
    parameters = list(networks.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    rng = torch.Generator().manual_seed(seed)
    weight = 0.0
    if start:
        code = encoder(images[:256])
        norms = [
            gradient_norm(loss, parameters)
            for loss in (
                (decoder(code) - images[:256]).square().mean(),
                hessian_penalty(decoder, code, reduction="mean", rng=rng, **settings),
            )
        ]
        weight = start * norms[0] / norms[1]
    penalty = HessianPenalty(
        decoder, weight=weight, adaptive=adaptive, parameters=parameters, reduction="mean", **settings
    )
    steps = []
    for step in range(STEPS + 1):
        if step in (0, STEPS // 10, STEPS // 3, STEPS):
            steps.append({"step": step, **measures(networks, held_out, settings)})
        if step == STEPS:
            break
        batch = images[torch.randint(0, len(images), (BATCH,), generator=rng)]
        code = encoder(batch)
        error = (decoder(code) - batch).square().mean()
        loss = error + penalty(code, main_loss=error, rng=rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"weight": penalty.last_weight, "steps": steps}


def compare(seed, out):
    """Train and measure all arms; what is complete is in `out` after each."""
    with tempfile.TemporaryDirectory() as folder:
        data = unpack_data("clevr-simple", Path(folder) / "data")
        images, held_out = data.batch(slice(0, 3500), 16), data.batch(slice(3500, 4000), 16)
    torch.manual_seed(seed)
    networks = autoencoder()
    train(networks, images, held_out, seed)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    record = {"seed": seed, "machine": machine, "arms": []}
    print("| arm | weight | its penalty | scale-free penalty | std of the code | std of the images | std of inner |"
          " error | squared entries off the diagonal | on it | share |")  # fmt: skip
    print("|---" * 11 + "|")
    for name, settings in ARMS.items():
        found = train(copy.deepcopy(networks), images, held_out, seed + 1, **settings)
        record["arms"].append({"arm": name, **found})
        write_json(out, record)
        print(row(record["arms"][-1]), flush=True)


def row(arm):
    first, last = arm["steps"][0], arm["steps"][-1]

    def change(key, digits):
        return f"{first[key]:.{digits}} → {last[key]:.{digits}}"

    return " | ".join([
        f"| {arm['arm']}",
        f"{arm['weight']:.2g}",
        change("penalty", "2g"),
        change("scale_free_penalty", "2f"),
        change("code_std", "2f"),
        change("output_std", "3f"),
        change("inner_std", "2f"),
        change("error", "4f"),
        change("off_diagonal", "2f"),
        change("diagonal", "2f"),
        change("off_diagonal_share", "3f"),
    ]) + " |"  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the record, JSON")
    arguments = parser.parse_args()
    compare(arguments.seed, arguments.out)


if __name__ == "__main__":
    main()
