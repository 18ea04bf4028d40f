"""Whether the penalty has the right scale without a search for its weight: a GAN's fine-tunings, and autoencoders.

    python benchmarks/scale.py [--part gan|autoencoder] [--kimg 5] [--seed 0]

gan: the shipped vanilla model is trained on with the adaptive, scale-free penalty and with fixed weights, under steps
and activation scales that a user may have without knowing. autoencoder: what the plain penalty and the scale-free one
do where the code's scale is learned. Each part keeps the other's record in results/scale.json.
"""

import argparse
import copy
import math
import platform
import tempfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hessian_penalty import HessianPenalty, hessian_penalty
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.features import EfficientNetFeatures
from hessian_penalty.metrics.frechet import FrechetDistance
from hessian_penalty.metrics.measures import MeasureProtocol, measure
from hessian_penalty.penalty import hessian_energy, off_diagonal_share
from hessian_penalty.penalty.adaptive import gradient_norm
from hessian_penalty.runs import from_record, read_json, write_json
from hessian_penalty.studies.demo_assets import unpack_data, unpack_run
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.losses import generator_loss
from hessian_penalty.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "scale.json"

NORMS = ("blocks.*.norm?",)
FRACTION = 0.02  # of the main gradient's norm
PENALTY = PenaltyConfig(layers=NORMS, reduction="mean", ramp_kimg=2.0)
PROTOCOL = MeasureProtocol(activeness_samples=100, hessian_samples=32, frechet_images=2000)
SETTINGS = [{"epsilon": 0.1}, {"epsilon": 0.1, "activations": 10.0}, {"epsilon": 0.05}, {"epsilon": 0.2}]
# An arm works if its share is below vanilla's at about vanilla's quality, and its latents still move the images.
MOST_FRECHET, LEAST_ACTIVENESS = 1.1, 0.7  # times vanilla's


def enlarge_activations(generator, factor):
    """Make each normalised activation `factor` times as large, and what reads it divide by that: the same images."""
    for block in generator.blocks:
        for norm in (block.norm0, block.norm1):
            norm.register_forward_hook(lambda module, inputs, output: factor * output)
    readers = [block.conv1 for block in generator.blocks]
    readers += [block.conv0 for block in generator.blocks[1:]] + [generator.to_image]
    for reader in readers:
        reader.register_forward_pre_hook(lambda module, inputs: (inputs[0] / factor, *inputs[1:]))


def check_enlarged(plain, enlarged, factor):
    rng = torch.Generator().manual_seed(0)
    z, probes = plain.sample_latents(8, rng), torch.randint(0, 2, (2, 8, plain.latent_dim), generator=rng) * 2.0 - 1
    with torch.no_grad():
        difference = float((plain(z) - enlarged(z)).abs().max())
        values = [
            float(hessian_penalty(G, z, layers=NORMS, reduction="mean", probes=probes)) for G in (plain, enlarged)
        ]
    assert difference < 1e-5, difference
    assert math.isclose(values[1] / values[0], factor**2, rel_tol=1e-3), values


def log_ratio(trainer, penalty, batches=8):
    """Mean logarithm of main over penalty gradient norm, as `AdaptiveWeight` measures it, at the trainer's networks."""
    rng = torch.Generator().manual_seed(1)
    parameters, found = list(trainer.generator.parameters()), []
    for _ in range(batches):
        z = trainer.generator.sample_latents(trainer.config.batch_size, rng)
        main = generator_loss(trainer.critic(trainer.generator(z)))
        value = hessian_penalty(
            trainer.generator, z, layers=penalty.layers or None, epsilon=penalty.epsilon, rng=rng,
            reduction=penalty.reduction, scale_free=penalty.scale_free,
        )  # fmt: skip
        found.append(math.log(gradient_norm(main, parameters) / gradient_norm(value, parameters)))
    return sum(found) / len(found)


class GanStudy:
    """The shipped vanilla model, trained on in several ways.

    Args:
        folder: for the unpacked assets.
        kimg: thousands of images of each training.
        seed: of data order, latents and probes.
    """

    def __init__(self, folder, kimg, seed):
        self.data = unpack_data("clevr-simple", folder / "data")
        self.run = unpack_run("clevr-simple", folder / "vanilla", self.data)
        record = self.run.config()
        record.pop("provenance")
        config = from_record(TrainingConfig, record, str(self.run.config_path))
        self.config = replace(config, total_kimg=kimg, log_kimg=kimg, seed=seed + 1)
        self.protocol = replace(PROTOCOL, seed=seed)
        reference = (self.data.batch(slice(s, s + 125), 32) for s in range(0, self.protocol.frechet_images, 125))
        self.distance = FrechetDistance(EfficientNetFeatures(), reference)

    def trainer(self, penalty, activations=1.0):
        trainer = Trainer(replace(self.config, penalty=penalty), self.data, accelerator="cpu")
        trainer.start_from(self.run.latest_checkpoint())
        if activations != 1:
            enlarge_activations(trainer.generator, activations)  # the moving average stays as it is
        return trainer

    def fixed_weight(self):
        """λ at which the plain penalty's gradient is `FRACTION` of the main loss's at the start."""
        penalty = replace(PENALTY, weight=1.0)
        return FRACTION * math.exp(log_ratio(self.trainer(penalty), penalty))

    def arm(self, penalty=None, activations=1.0):
        """Train, and measure the moving average and how large the penalty's gradient was in the end."""
        penalty = penalty or PenaltyConfig()
        trainer = self.trainer(penalty, activations)
        found = {"epsilon": penalty.epsilon, "activations": activations}
        try:
            trainer.train()
        except UserError as error:
            found["diverged"] = str(error)
        if penalty.enabled:
            found["weight"] = trainer.penalty.last_weight
            found["gradient_fraction"] = found["weight"] / math.exp(log_ratio(trainer, penalty))
        return found | self.measures(trainer)

    def measures(self, trainer):
        found = measure(trainer.ema, self.protocol, self.distance)
        rng = torch.Generator().manual_seed(self.protocol.seed)
        z = trainer.ema.sample_latents(128, rng)
        with torch.no_grad():
            penalties = [
                hessian_penalty(trainer.ema, z, k=8, layers=layers, reduction="mean", scale_free=True, rng=rng)
                for layers in (NORMS, None)
            ]
        return {
            "scale_free_penalty": float(penalties[0]),
            "scale_free_penalty_of_images": float(penalties[1]),
            "effective_latents": found.effective_latents,
            "off_diagonal_share": found.off_diagonal_share,
            "total_activeness": sum(found.activeness),
            "frechet": found.frechet,
        }


def gan(kimg, seed, keep):
    with tempfile.TemporaryDirectory() as folder:
        study = GanStudy(Path(folder), kimg, seed)
        start = study.trainer(PenaltyConfig())
        check_enlarged(start.generator, study.trainer(PenaltyConfig(), 10.0).generator, 10.0)
        weight = study.fixed_weight()
        default = replace(PENALTY, adaptive=FRACTION, scale_free=True)
        fixed = replace(PENALTY, weight=weight)
        published = replace(PENALTY, weight=0.1, reduction="max")
        plan = [("vanilla, trained on", None, {})]
        plan += [
            (name, replace(penalty, epsilon=setting["epsilon"]), setting)
            for setting in SETTINGS
            for name, penalty in (("default", default), ("fixed", fixed))
        ]
        plan += [("published", published, {}), ("default, of images", replace(default, layers=()), {})]
        record = {
            "kimg": kimg, "seed": seed, "fixed_weight": weight, "protocol": study.protocol.record(),
            "arms": [{"arm": "start", **study.measures(start)}],
        }  # fmt: skip
        print_gan(record)
        for name, penalty, setting in plan:
            found = study.arm(penalty, setting.get("activations", 1.0))
            record["arms"].append({"arm": name, **found})
            judge(record["arms"][1], record["arms"][-1])
            keep(record)
            print(gan_row(record["arms"][-1]), flush=True)


def judge(vanilla, arm):
    """Note what failed; an empty list for an arm that works."""
    if arm is vanilla:
        return
    arm["failed"] = [
        what
        for what, failed in (
            ("diverged", "diverged" in arm),
            ("share", not arm["off_diagonal_share"] < vanilla["off_diagonal_share"]),
            ("distance", not arm["frechet"] <= MOST_FRECHET * vanilla["frechet"]),
            ("activeness", not arm["total_activeness"] >= LEAST_ACTIVENESS * vanilla["total_activeness"]),
        )
        if failed
    ]


def print_gan(record):
    print(f"fixed weight: {record['fixed_weight']:.3g} ({FRACTION:.0%} of the main gradient at the start, epsilon 0.1)")
    print("| arm | ε | activations | penalty, activations | penalty, images | effective latents | share |"
          " total activeness | Fréchet distance | weight, end | gradient, end | |")  # fmt: skip
    print("|---" * 12 + "|")
    for arm in record["arms"]:
        print(gan_row(arm), flush=True)


def gan_row(arm):
    trained = "weight" in arm
    return " | ".join([
        f"| {arm['arm']}",
        f"{arm['epsilon']:g}" if trained else "",
        f"× {arm['activations']:g}" if trained else "",
        f"{arm['scale_free_penalty']:.1f}",
        f"{arm['scale_free_penalty_of_images']:.2f}",
        f"{arm['effective_latents']:.2f}",
        f"{arm['off_diagonal_share']:.3f}",
        f"{arm['total_activeness']:.4f}",
        f"{arm['frechet']:.0f}",
        f"{arm['weight']:.2g}" if trained else "",
        f"{arm['gradient_fraction']:.1%}" if trained else "",
        ("fails: " + ", ".join(arm["failed"]) if arm["failed"] else "works") if trained else "",
    ]) + " |"  # fmt: skip


CODE, BATCH, STEPS = 8, 64, 600  # components; images a step; steps, first without the penalty and then with it
INNER = "act1"  # decoder activations whose scale is free: the next layer can undo it
BOTH = {"scale_free": True, "scale_epsilon": True}
AUTOENCODERS = {  # `start`: a fixed weight, at which the gradient is this fraction of the main one at the start
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
def autoencoder_record(networks, images, settings):
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


def train_autoencoder(networks, images, held_out, seed, *, start=0.0, adaptive=None, **settings):
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
            steps.append({"step": step, **autoencoder_record(networks, held_out, settings)})
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


def autoencoders(seed, keep):
    with tempfile.TemporaryDirectory() as folder:
        data = unpack_data("clevr-simple", Path(folder) / "data")
        images, held_out = data.batch(slice(0, 3500), 16), data.batch(slice(3500, 4000), 16)
    torch.manual_seed(seed)
    networks = autoencoder()
    train_autoencoder(networks, images, held_out, seed)
    record = {"seed": seed, "arms": []}
    print("| arm | weight | its penalty | scale-free penalty | std of the code | std of the images | std of inner |"
          " error | squared entries off the diagonal | on it | share |")  # fmt: skip
    print("|---" * 11 + "|")
    for name, settings in AUTOENCODERS.items():
        found = train_autoencoder(copy.deepcopy(networks), images, held_out, seed + 1, **settings)
        record["arms"].append({"arm": name, **found})
        keep(record)
        print(autoencoder_row(record["arms"][-1]), flush=True)


def autoencoder_row(arm):
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


def keeper(part):
    """What writes a part's record beside the other part's."""
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"

    def keep(record):
        whole = read_json(RESULTS) if RESULTS.exists() else {}
        write_json(RESULTS, whole | {part: record | {"machine": machine}})

    return keep


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["gan", "autoencoder"], help="one of the two parts; both by default")
    parser.add_argument("--kimg", type=float, default=5.0, help="thousands of images of each fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.part != "autoencoder":
        gan(arguments.kimg, arguments.seed, keeper("gan"))
    if arguments.part != "gan":
        autoencoders(arguments.seed, keeper("autoencoder"))


if __name__ == "__main__":
    main()
