"""Whether the penalty has the right scale without a search for its weight: fine-tunings of a GAN.

    python benchmarks/scale_gan.py [--start rotated|vanilla] [--kimg 5] [--seed 0] [--out FILE]

The shipped vanilla model, turned onto its directions as in the demo, is trained on with the adaptive, scale-free
penalty and with fixed weights, under steps and activation scales that a user may have without knowing.
"""

import argparse
import math
import platform
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from hessian_penalty import hessian_penalty
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.instruments import Instruments
from hessian_penalty.metrics.measures import measure
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.penalty.adaptive import gradient_norm
from hessian_penalty.runs import RunFolder, from_record, write_json
from hessian_penalty.studies.demo_assets import unpack_data, unpack_run
from hessian_penalty.studies.rotation import rotate_run
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.losses import generator_loss
from hessian_penalty.training.trainer import Trainer

RESULTS = Path(__file__).parent / "results" / "scale_gan.json"

NORMS = ("blocks.*.norm?",)
FRACTION = 0.02  # of the main gradient's norm
PENALTY = PenaltyConfig(layers=NORMS, reduction="mean", ramp_kimg=2.0)
PROTOCOL = MeasureProtocol(
    activeness_samples=100, hessian_samples=32, frechet_images=2000, reference_images=2000, kernel_subsets=0,
    path_length_pairs=0, predictability_pairs=0, audit_images=0,
)  # fmt: skip
SETTINGS = [{"epsilon": 0.1}, {"epsilon": 0.1, "activations": 10.0}, {"epsilon": 0.05}, {"epsilon": 0.2}]
# An arm works if its share is below that of the start trained on without the penalty, at about its quality, and its
# latents still move the images.
MOST_FRECHET, LEAST_ACTIVENESS = 1.1, 0.7  # times those of the start trained on


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
    parameters, found = list(trainer.state.generator.parameters()), []
    for _ in range(batches):
        z = trainer.state.generator.sample_latents(trainer.config.batch_size, rng)
        main = generator_loss(trainer.state.critic(trainer.state.generator(z)))
        value = hessian_penalty(
            trainer.state.generator, z, layers=penalty.layers or None, epsilon=penalty.epsilon, rng=rng,
            reduction=penalty.reduction, scale_free=penalty.scale_free,
        )  # fmt: skip
        found.append(math.log(gradient_norm(main, parameters) / gradient_norm(value, parameters)))
    return sum(found) / len(found)


class GanStudy:
    """The shipped vanilla model, rotated or not, trained on in several ways.

    Args:
        folder: for the unpacked assets and the rotated run.
        start: "rotated", by the demo's search with the demo's seed, or "vanilla".
        kimg: thousands of images of each training.
        seed: of the search, data order, latents and probes.
    """

    def __init__(self, folder, start, kimg, seed):
        self.data = unpack_data("clevr-simple", folder / "data")
        self.run = unpack_run("clevr-simple", folder / "vanilla", self.data)
        if start == "rotated":
            rotate_run(self.run, folder / start, seed=seed)
            self.run = RunFolder.open(folder / start)
        record = self.run.config()
        record.pop("provenance")
        config = from_record(TrainingConfig, record, str(self.run.config_path))
        self.config = replace(config, total_kimg=kimg, log_kimg=kimg, seed=seed + 1)
        self.protocol = replace(PROTOCOL, seed=seed)
        self.tools = Instruments(self.protocol, self.data)

    def trainer(self, penalty, activations=1.0):
        trainer = Trainer(replace(self.config, penalty=penalty), self.data, accelerator="cpu")
        trainer.start_from(self.run.latest_checkpoint())
        if activations != 1:
            enlarge_activations(trainer.state.generator, activations)  # the moving average stays as it is
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
            found["weight"] = trainer.state.penalty.last_weight
            found["gradient_fraction"] = found["weight"] / math.exp(log_ratio(trainer, penalty))
        return found | self.measures(trainer)

    def measures(self, trainer):
        found = measure(trainer.state.ema, self.tools)
        rng = torch.Generator().manual_seed(self.protocol.seed)
        z = trainer.state.ema.sample_latents(128, rng)
        with torch.no_grad():
            penalties = [
                hessian_penalty(trainer.state.ema, z, k=8, layers=layers, reduction="mean", scale_free=True, rng=rng)
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


def compare(start, kimg, seed, out):
    """Train and measure all arms; what is complete is in `out` after each."""
    with tempfile.TemporaryDirectory() as folder:
        study = GanStudy(Path(folder), start, kimg, seed)
        before = study.trainer(PenaltyConfig())
        check_enlarged(before.state.generator, study.trainer(PenaltyConfig(), 10.0).state.generator, 10.0)
        weight = study.fixed_weight()
        default = replace(PENALTY, adaptive=FRACTION, scale_free=True)
        fixed = replace(PENALTY, weight=weight)
        published = replace(PENALTY, weight=0.1, reduction="max")
        plan = [(f"{start}, trained on", None, {})]
        plan += [
            (name, replace(penalty, epsilon=setting["epsilon"]), setting)
            for setting in SETTINGS
            for name, penalty in (("default", default), ("fixed", fixed))
        ]
        plan += [("published", published, {}), ("default, of images", replace(default, layers=()), {})]
        record = {
            "start": start, "kimg": kimg, "seed": seed, "fixed_weight": weight, "protocol": study.protocol.record(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}",
            "arms": [{"arm": "start", **study.measures(before)}],
        }  # fmt: skip
        print_head(record)
        for name, penalty, setting in plan:
            found = study.arm(penalty, setting.get("activations", 1.0))
            record["arms"].append({"arm": name, **found})
            judge(record["arms"][1], record["arms"][-1])
            write_json(out, record)
            print(row(record["arms"][-1]), flush=True)


def judge(trained_on, arm):
    """Note what failed against the start trained on without the penalty; an empty list for an arm that works."""
    if arm is trained_on:
        return
    arm["failed"] = [
        what
        for what, failed in (
            ("diverged", "diverged" in arm),
            ("share", not arm["off_diagonal_share"] < trained_on["off_diagonal_share"]),
            ("distance", not arm["frechet"] <= MOST_FRECHET * trained_on["frechet"]),
            ("activeness", not arm["total_activeness"] >= LEAST_ACTIVENESS * trained_on["total_activeness"]),
        )
        if failed
    ]


def print_head(record):
    print(f"fixed weight: {record['fixed_weight']:.3g} ({FRACTION:.0%} of the main gradient at the start, epsilon 0.1)")
    print("| arm | ε | activations | penalty, activations | penalty, images | effective latents | share |"
          " total activeness | Fréchet distance | weight, end | gradient, end | |")  # fmt: skip
    print("|---" * 12 + "|")
    for arm in record["arms"]:
        print(row(arm), flush=True)


def row(arm):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", choices=["rotated", "vanilla"], default="rotated", help="model that is trained on")
    parser.add_argument("--kimg", type=float, default=5.0, help="thousands of images of each fine-tuning")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="the record, JSON")
    arguments = parser.parse_args()
    compare(arguments.start, arguments.kimg, arguments.seed, arguments.out)


if __name__ == "__main__":
    main()
