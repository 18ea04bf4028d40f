"""Which settings of the penalty disentangle best without cost to the images: successive halving on one seed.

    hessian-penalty study clevr-simple-tiny --seeds 1 --arms rotated-finetuned --out runs/study     # makes the starts
    python benchmarks/penalty_search.py runs/study --out runs/search

Every setting trains the study's start of seed 0 on, most of them from its rotated form; after 8 kimg the better
half goes on to 16. First come those whose Fréchet distance is within 5% of the same training without a penalty, by the
mean of the factor audit's scores; then the others, by their distance. Prints both rungs and writes
benchmarks/results/penalty_search.json; docs/results.md tells what the tiny presets took from it. Interrupted, it goes
on when repeated.
"""

import argparse
import os
import platform
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config
from hessian_penalty.metrics.measures import Measures
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, read_json, write_json
from hessian_penalty.studies.arm_making import divergence_of, measure_arm, recorded_kimg, train_arm
from hessian_penalty.studies.arms import FINETUNE_SEED
from hessian_penalty.studies.evaluation import Evaluator, data_of
from hessian_penalty.studies.task_pool import Task, run_tasks
from hessian_penalty.training.config import PenaltyConfig
from hessian_penalty.training.session import settings_of

RESULTS = Path(__file__).parent / "results" / "penalty_search.json"
RUNGS = (8.0, 16.0)  # kimg after which the better half goes on
TOLERANCE = 1.05  # of the Fréchet distance, against the same training without a penalty
PROTOCOL = MeasureProtocol(path_length_pairs=0, predictability_pairs=0, kernel_subsets=0)
SEED = 0
SCORES = ("mig", "mig_grouped", "sap", "dci_disentanglement", "dci_completeness")


@dataclass(frozen=True)
class Setting:
    """A penalty, and the run of the study that it trains on."""

    penalty: PenaltyConfig
    start: str = "start-rotated"


BASE = PenaltyConfig(adaptive=0.02, reduction="mean", scale_free=True, ramp_kimg=4.0)
CONTROLS = {"no penalty": Setting(PenaltyConfig(), "start"), "rotated, no penalty": Setting(PenaltyConfig())}
SETTINGS = {
    "base": Setting(BASE),
    "weight 0.5%": Setting(replace(BASE, adaptive=0.005)),
    "weight 1%": Setting(replace(BASE, adaptive=0.01)),
    "weight 5%": Setting(replace(BASE, adaptive=0.05)),
    "all layers": Setting(replace(BASE, layers=("blocks.*.norm?",))),
    "all layers but the last": Setting(replace(BASE, layers=("blocks.[0-2].norm?",))),
    "not scale-free": Setting(replace(BASE, scale_free=False)),
    "maximum": Setting(replace(BASE, reduction="max")),
    "no ramp": Setting(replace(BASE, ramp_kimg=0.0)),
    "late": Setting(replace(BASE, start_kimg=3.0, ramp_kimg=1.0)),
    "of average": Setting(replace(BASE, of_average=True)),
    "not rotated": Setting(BASE, "start"),
    "not rotated, 10%": Setting(replace(BASE, adaptive=0.1), "start"),
}


class Search:
    """Trains and measures settings in a folder, from the starts of a study."""

    def __init__(self, study: Path, out: Path, workers: int) -> None:
        self.study, self.out, self.workers = study, out, workers
        start = self.start("start")
        self.data: ImageDataset = data_of(start)
        self.resolution = generator_config(start).resolution
        self.evaluator = Evaluator(PROTOCOL, self.data, self.resolution)
        self.evaluator.tools.prepare()

    def start(self, name: str) -> RunFolder:
        return RunFolder.open(self.study / f"seed-{SEED}" / name)

    def run_of(self, name: str) -> RunFolder:
        return RunFolder(self.out / name.replace(" ", "-").replace(",", "").replace("%", ""))

    def make(self, settings: dict[str, Setting], kimg: float) -> None:
        """Train to `kimg`, or on to it, and measure."""
        tasks = []
        for name, setting in settings.items():
            start, run = self.start(setting.start), self.run_of(name)
            config = replace(
                settings_of(start),
                penalty=setting.penalty, total_kimg=kimg, seed=SEED + FINETUNE_SEED, snapshot_kimg=RUNGS[0],
            )  # fmt: skip
            if run.checkpoints():  # a longer run of the same settings
                write_json(run.config_path, run.config() | {"total_kimg": kimg})
            train = partial(train_arm, config, self.data.path, run.path, start.path, {"setting": name})
            measure = partial(measure_arm, self.data.path, PROTOCOL, self.resolution, run.path)
            tasks += [Task(name, train), Task(f"{name}: measures", measure, (name,))]
        runs = [self.run_of(name) for name in settings]
        with progress_bar(f"{len(settings)} settings to {kimg:g} kimg") as update:
            failed = run_tasks(
                tasks, workers=self.workers, watch=lambda _: update(sum(map(recorded_kimg, runs)), kimg * len(runs))
            )
        for name, error in failed.items():
            print(f"{name}: {error}")

    def measures(self, name: str) -> Measures | None:
        run = self.run_of(name)
        return None if divergence_of(run) else self.evaluator(run)


def score(measures: Measures) -> float:
    return fmean(getattr(measures.audit, name) for name in SCORES)


def line_of(name: str, found: Measures) -> dict[str, float | str]:
    line = {"setting": name, "frechet": found.frechet, "score": score(found)}
    line |= {key: getattr(found, key) for key in ("effective_latents", "off_diagonal_share", "penalty")}
    return line | {key: getattr(found.audit, key) for key in SCORES}


def rung(search: Search, settings: dict[str, Setting], kimg: float) -> list[dict[str, float | str]]:
    """Train and measure all to `kimg`: the controls, then the settings from the best; what diverged is missing."""
    path = search.out / f"rung-{kimg:g}.json"
    if path.exists():
        lines: list[dict[str, float | str]] = read_json(path)["lines"]
        return lines
    search.make(CONTROLS | settings, kimg)
    found = {name: m for name in CONTROLS | settings if (m := search.measures(name)) is not None}
    if "no penalty" not in found:
        raise UserError("The training without a penalty diverged: there is nothing to compare with.")
    limit = TOLERANCE * found["no penalty"].frechet
    ranked = sorted(
        (name for name in settings if name in found),
        key=lambda name: (max(found[name].frechet - limit, 0.0), -score(found[name])),
    )
    lines = [line_of(name, found[name]) for name in [*CONTROLS, *ranked] if name in found]
    write_json(path, {"kimg": kimg, "limit": limit, "lines": lines})
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of `hessian-penalty study`")
    parser.add_argument("--out", type=Path, default=Path("runs/penalty-search"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    search = Search(options.study, options.out, options.workers)
    left = dict(SETTINGS)
    rungs = []
    for kimg in RUNGS:
        lines = rung(search, left, kimg)
        rungs.append({"kimg": kimg, "settings": lines})
        print(f"\nAfter {kimg:g} kimg:")
        for line in lines:
            print(
                "  {setting:<26} distance {frechet:7.1f}  score {score:.3f}  penalty {penalty:6.3f}  "
                "share {off_diagonal_share:.3f}  effective {effective_latents:5.2f}".format(**line)
            )
        ranked = [str(line["setting"]) for line in lines if line["setting"] in left]
        left = {name: left[name] for name in ranked[: (len(ranked) + 1) // 2]}
    machine = f"{platform.machine()}, {search.workers} processes, PyTorch {torch.__version__}"
    write_json(RESULTS, {"machine": machine, "rungs": rungs})


if __name__ == "__main__":
    main()
