"""Directions in frozen generators: each method's penalty, alignment with the true axes, cost.

    python benchmarks/directions.py [--part separable|decoder|gan|biggan] [--seed 0] [--out FILE]

separable: a sum of functions of one rotated coordinate each, n = 24. decoder: a convolutional leaky-ReLU network that
was taught to draw a bar from place, size, hue and background, behind a rotation of these five and five dead latents.
gan: the shipped vanilla model. biggan: BigGAN's width with random weights, for cost and memory only.

What a method costs is counted in evaluations of G for one latent, with a gradient through them or without. A gradient
costs about as much as two more evaluations, so passes are evaluations + 2 x gradients. Penalties are measured at
held-out latents by differences along the directions (all pairs), the same for all methods.
"""

import argparse
import itertools
import math
import platform
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hessian_penalty.directions.discover import METHODS
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.directions.hessian_gradient import HessianGradientSearch
from hessian_penalty.directions.joint_diagonalization import joint_diagonalize
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.directions.orojar import OroJaRSearch, jacobian_grams
from hessian_penalty.directions.sketches import hessian_sketches
from hessian_penalty.directions.voynov import VoynovSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.biggan import BigGANConfig, random_biggan
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.metrics.activeness import activeness, effective_latents
from hessian_penalty.metrics.interactions import hessian_statistics
from hessian_penalty.runs import read_json, write_json
from hessian_penalty.studies.demo_assets import unpack_data, unpack_run

RESULTS = Path(__file__).parent / "results" / "directions.json"
PUBLISHED_PASSES = 50_000 * 96 * 15  # steps, batch; 2k + 1 = 5 evaluations, each with its gradient


class Counted:
    """A generator that counts the rows it evaluates, and those through which a gradient goes."""

    def __init__(self, G):
        self.G, self.latent_dim, self.sample_latents = G, G.latent_dim, G.sample_latents
        self.evaluations = self.gradients = 0

    def __getattr__(self, name):
        return getattr(self.G, name)

    def __call__(self, z, **conditions):
        self.evaluations += len(z)
        images = self.G(z, **conditions)
        if images.requires_grad:
            images.register_hook(self._count)
        return images

    def _count(self, gradient):
        self.gradients += len(gradient)

    @property
    def passes(self):
        return self.evaluations + 2 * self.gradients


class Separable:
    """Σ_i a_i sin(r_i·z + φ_i) for each of 768 elements; the rows r_i are the true axes."""

    def __init__(self, latent_dim, seed):
        rng = torch.Generator().manual_seed(seed)
        self.latent_dim = latent_dim
        self.axes = random_rotation(latent_dim, rng)
        self.phase = torch.randn(latent_dim, 768, generator=rng)
        self.gain = torch.linspace(1.0, 0.2, latent_dim)[:, None] * torch.randn(latent_dim, 768, generator=rng)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng)

    def __call__(self, z):
        turned = z @ self.axes.T
        return (self.gain * torch.sin(turned[:, :, None] + self.phase)).sum(1).reshape(-1, 3, 16, 16)


class Decoder(nn.Module):
    """Five factors to 16 pixels; `axes` are the five true axes in the space of ten latents."""

    latent_dim, factors = 10, 5

    def __init__(self, seed):
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        self.register_buffer("axes", random_rotation(self.latent_dim, rng)[: self.factors])
        self.network = nn.Sequential(
            nn.Linear(self.factors, 512), nn.LeakyReLU(0.2), nn.Unflatten(1, (32, 4, 4)),
            nn.Upsample(scale_factor=2), nn.Conv2d(32, 32, 3, padding=1), nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2), nn.Conv2d(32, 16, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(16, 3, 1),
        )  # fmt: skip

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng)

    def forward(self, z):
        return self.network(z)


def draw_bars(factors):
    """Upright bars (N, 3, 16, 16) in [-1, 1] of place, size and hue on a grey of some brightness."""
    x, y, hue, size, ground = (0.5 + 0.5 * torch.erf(f / math.sqrt(2)) for f in factors.T.unsqueeze(-1).unsqueeze(-1))
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    half = 1.5 + 2 * size
    inside = torch.sigmoid(2 * (half * 0.6 - (columns - 4 - 7 * x).abs()))
    inside = inside * torch.sigmoid(2 * (half - (rows - 4 - 7 * y).abs()))
    angle = 1.5 * math.pi * hue
    colour = torch.stack([torch.cos(angle + shift) for shift in (0.0, 2.1, 4.2)], dim=1)
    return inside[:, None] * colour + (1 - inside[:, None]) * (ground[:, None] - 0.5)


def taught_decoder(seed, steps=3000):
    G = Decoder(seed)
    optimizer = torch.optim.Adam(G.network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        factors = torch.randn(128, G.factors, generator=rng)
        loss = (G.network(factors) - draw_bars(factors)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"decoder taught: mean squared error {loss.item():.4f}")
    with torch.no_grad():  # behind the rotation: the first layer reads ten latents
        taught = G.network[0]
        G.network[0] = nn.Linear(G.latent_dim, taught.out_features)
        G.network[0].weight.copy_(taught.weight @ G.axes)
        G.network[0].bias.copy_(taught.bias)
    return G.eval().requires_grad_(False)


def random_rotation(n, rng):
    q, r = torch.linalg.qr(torch.randn(n, n, generator=rng))
    return q * r.diagonal().sign()


def measured(G, matrix, axes, seed, samples):
    """Penalty, share and effective latents along directions (orthonormalised), and the cosine for each true axis."""
    basis = torch.linalg.qr(matrix.double().T)[0].T.float() if matrix.shape[0] == matrix.shape[1] else matrix
    rng = torch.Generator().manual_seed(1000 + seed)
    energy, *_ = hessian_statistics(G, G.sample_latents(samples, rng), basis=basis)
    off, whole = float(energy.sum() - energy.diagonal().sum()), float(energy.sum())
    found = {
        "penalty": off,
        "share": off / whole,
        "effective_latents": effective_latents(activeness(G, samples=100, basis=basis, rng=rng)),
    }
    if axes is not None:
        found["cosines"] = (axes.double() @ matrix.double().T).abs().amax(dim=1).tolist()
    return found


def compare(name, G, axes, methods, seed, samples, keep):
    """Run every method, measure, print and keep."""
    print(f"\n### {name}\n| method | penalty | share | effective latents | cosine: least, mean | passes | seconds |")
    print("|---|---|---|---|---|---|---|")
    record = {"given": {**measured(G, torch.eye(G.latent_dim), axes, seed, samples), "passes": 0, "seconds": 0.0}}
    if axes is not None and len(axes) == G.latent_dim:
        record["true axes"] = {**measured(G, axes, axes, seed, samples), "passes": 0, "seconds": 0.0}
    for label in record:
        print(row(label, record[label]))
    for label, method in methods.items():
        counted = Counted(G)
        method = METHODS[method]() if isinstance(method, str) else method
        start = time.perf_counter()
        try:
            found = method.search(Space(counted, subspace_rows(counted, None)), rng=torch.Generator().manual_seed(seed))
        except UserError as error:  # SeFa needs a layer that reads the latents
            print(f"| {label} | does not apply: {str(error).split(';')[0]} | | | | | |", flush=True)
            continue
        seconds = time.perf_counter() - start
        record[label] = {
            **measured(G, found.rows.float(), axes, seed, samples),
            "method": method.record(), "notes": found.notes,
            "evaluations": counted.evaluations, "gradients": counted.gradients, "passes": counted.passes,
            "seconds": seconds,
        }  # fmt: skip
        print(row(label, record[label]), flush=True)
        keep(record)


def row(label, found):
    cosines = found.get("cosines")
    return " | ".join([
        f"| {label}", f"{found['penalty']:.4g}", f"{found['share']:.3f}", f"{found['effective_latents']:.2f}",
        f"{min(cosines):.3f}, {sum(cosines) / len(cosines):.3f}" if cosines else "",
        f"{found['passes']:,}", f"{found['seconds']:.1f}",
    ]) + " |"  # fmt: skip


def separable(seed, keep):
    G = Separable(24, seed)
    compare("additively separable, n = 24", G, G.axes, SEARCHES, seed, 32, keep)


def decoder(seed, keep):
    G = taught_decoder(seed)
    compare("convolutional decoder, n = 10, five factors", G, G.axes, SEARCHES, seed, 64, keep)


def gan(seed, keep):
    with tempfile.TemporaryDirectory() as folder:
        data = unpack_data("clevr-simple", Path(folder) / "data")
        G = load_generator(unpack_run("clevr-simple", Path(folder) / "vanilla", data))
    shorter = {label: search for label, search in SEARCHES.items() if "3000" not in label}  # a quarter of an hour
    compare("clevr-simple, vanilla, n = 12", G, None, shorter, seed, 48, keep)


def matrices_of(search):
    return search.rounds * search.sketches if search.name == "hessian" else search.samples


def biggan(seed, keep):
    """A few sketches, Gram matrices and one sweep of a diagonalisation at full width: what searches would take."""
    G = random_biggan(BigGANConfig(), seed)
    rng = torch.Generator().manual_seed(seed)
    with FlopCounterMode(display=False) as counter:
        G(G.sample_latents(1, rng), labels=207)
    gflop = counter.get_total_flops() / 1e9
    print(f"\n### BigGAN-128, ch 96, random weights, class 207: {gflop:.1f} GFLOP an image")
    print("| directions | search | passes | published over this | images a second | peak memory, MiB |"
          " a sweep of the diagonalisation, s | hours here | PFLOP |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    record = {"published_passes": PUBLISHED_PASSES, "gflop": gflop, "searches": []}
    for subspace, (label, search) in itertools.product(("coarse", "all"), BIGGAN_SEARCHES.items()):
        space = Space(counted := Counted(G), subspace_rows(G, subspace), {"labels": 207})
        z, conditions = space.sample(BIGGAN_BATCH, rng)
        five = replace(space, rows=space.rows[:: space.dim // 5])  # passes and seconds grow with their number
        start = time.perf_counter()
        if search.name == "hessian":
            matrices = hessian_sketches(
                five, z, conditions, along=five.rows, epsilon=0.1, seeds=torch.arange(len(z))
            )  # fmt: skip
        else:
            matrices = jacobian_grams(
                five, z[:1], conditions.select(torch.arange(1)), epsilon=0.1, batch_size=BIGGAN_BATCH
            )
        rate = counted.passes / (time.perf_counter() - start)
        matrices = torch.randn(matrices_of(search), space.dim, space.dim, dtype=matrices.dtype, generator=rng)
        start = time.perf_counter()
        joint_diagonalize(matrices + matrices.mT, max_sweeps=1)
        passes = search.evaluations(space.dim) * (3 if search.name == "hessian" else 1)
        found = {
            "directions": space.dim, "search": label, "settings": search.record(),
            "passes": passes, "published_over_this": PUBLISHED_PASSES / passes, "images_per_second": rate,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "sweep_seconds": time.perf_counter() - start, "hours": passes / rate / 3600, "pflop": passes * gflop / 1e6,
        }  # fmt: skip
        record["searches"].append(found)
        print(" | ".join([
            f"| {space.dim}", label, f"{passes:,}", f"{found['published_over_this']:.0f}", f"{rate:.1f}",
            f"{found['peak_mib']:.0f}", f"{found['sweep_seconds']:.1f}", f"{found['hours']:.1f}",
            f"{found['pflop']:.1f}",
        ]) + " |", flush=True)  # fmt: skip
        keep(record)


BIGGAN_BATCH = 8
BIGGAN_SEARCHES = {
    "hessian": HessianSearch(),
    "hessian, 32 sketches": HessianSearch(sketches=32, held_out=32, rounds=2),
    "orojar": OroJaRSearch(),
    "orojar, 64 latents": OroJaRSearch(samples=64, held_out=16),
}
SEARCHES = {
    "hessian": HessianSearch(),
    "hessian, 32 sketches": HessianSearch(sketches=32, held_out=32, rounds=2),
    "hessian, polished": HessianSearch(polish=200),
    "hessian-gradient, 600 steps": HessianGradientSearch(steps=600),
    "hessian-gradient, 3000 steps": HessianGradientSearch(steps=3000),
    "hessian-gradient, η = 0, 3000 steps": HessianGradientSearch(steps=3000, eta=0.0),
    "orojar": "orojar", "orojar, 64 latents": OroJaRSearch(samples=64, held_out=16),
    "sefa": "sefa", "ganspace": "ganspace",
    "voynov": VoynovSearch(steps=2000),
    "random": "random",
}  # fmt: skip
PARTS = {"separable": separable, "decoder": decoder, "gan": gan, "biggan": biggan}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(PARTS), help="one of the parts; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the record, JSON; other parts in it are kept")
    arguments = parser.parse_args()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    for name in [arguments.part] if arguments.part else PARTS:

        def keep(record, name=name):
            whole = read_json(arguments.out) if arguments.out.exists() else {}
            write_json(arguments.out, whole | {name: {"seed": arguments.seed, "machine": machine, "found": record}})

        PARTS[name](arguments.seed, keep)


if __name__ == "__main__":
    main()
