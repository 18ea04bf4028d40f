"""Which settings of the penalty disentangle best without cost to the images: successive halving on one seed.

    hessian-penalty study clevr-simple-tiny --seeds 1 --arms rotated-finetuned --out runs/study     # makes the starts
    python benchmarks/penalty_search.py runs/study --out runs/search

Every setting trains the study's start of seed 0 on, most of them from its rotated form; after 8 kimg the better
half goes on to 16. First come those whose Fréchet distance is within 5% of the same training without a penalty, by the
mean of the factor audit's scores; then the others, by their distance. What the tiny presets took from it is told in
docs/results.md. Interrupted, it goes on when repeated.
"""

import argparse
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean

from hessian_penalty.cli.progress import progress_bar
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.generators.loading import generator_config
from hessian_penalty.metrics.measures import Measures
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, from_record, write_json
from hessian_penalty.studies.arm_making import divergence_of, measure_arm, recorded_kimg, train_arm
from hessian_penalty.studies.arms import FINETUNE_SEED
from hessian_penalty.studies.evaluation import Evaluator, data_of
from hessian_penalty.studies.task_pool import Task, run_tasks
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig

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


LAYERS = ("blocks.*.norm?",)
SCALE_FREE = PenaltyConfig(adaptive=0.02, reduction="mean", scale_free=True, ramp_kimg=4.0)
RELATIVE = PenaltyConfig(adaptive=0.1, reduction="mean", relative=True, ramp_kimg=4.0, layers=LAYERS)
CONTROLS = {"no penalty": Setting(PenaltyConfig(), "start"), "rotated, no penalty": Setting(PenaltyConfig())}
SETTINGS = {
    "scale-free": Setting(SCALE_FREE),
    "scale-free, 0.5%": Setting(replace(SCALE_FREE, adaptive=0.005)),
    "scale-free, of average": Setting(replace(SCALE_FREE, of_average=True)),
    "plain": Setting(replace(SCALE_FREE, scale_free=False)),
    "relative": Setting(RELATIVE),
    "relative, 3%": Setting(replace(RELATIVE, adaptive=0.03)),
    "relative, 30%": Setting(replace(RELATIVE, adaptive=0.3)),
    "relative, images": Setting(replace(RELATIVE, layers=())),
    "relative, no ramp": Setting(replace(RELATIVE, ramp_kimg=0.0)),
    "relative, late": Setting(replace(RELATIVE, start_kimg=3.0, ramp_kimg=1.0)),
    "relative, every fourth step": Setting(replace(RELATIVE, interval=4)),
    "relative, of average": Setting(replace(RELATIVE, of_average=True)),
    "relative, not rotated": Setting(RELATIVE, "start"),
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
            record = start.config()
            record.pop("provenance")
            config = replace(
                from_record(TrainingConfig, record, str(start.config_path)),
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


def line_of(kimg: float, name: str, found: Measures) -> dict[str, float | str]:
    line = {"kimg": kimg, "setting": name, "frechet": found.frechet, "score": score(found)}
    line |= {key: getattr(found, key) for key in ("effective_latents", "off_diagonal_share", "penalty")}
    return line | {key: getattr(found.audit, key) for key in SCORES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of `hessian-penalty study`")
    parser.add_argument("--out", type=Path, default=Path("runs/penalty-search"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    search = Search(options.study, options.out, options.workers)
    left, lines = dict(SETTINGS), []
    for kimg in RUNGS:
        search.make(CONTROLS | left, kimg)
        found = {name: m for name in CONTROLS | left if (m := search.measures(name)) is not None}
        limit = TOLERANCE * found["no penalty"].frechet
        ranked = sorted(
            (name for name in left if name in found),
            key=lambda name: (max(found[name].frechet - limit, 0.0), -score(found[name])),
        )
        print(f"\nAfter {kimg:g} kimg; the Fréchet distance must not exceed {limit:.0f}:")
        for name in [*CONTROLS, *ranked]:
            m = found[name]
            lines.append(line_of(kimg, name, m))
            print(
                f"  {name:<36} distance {m.frechet:7.1f}  score {score(m):.3f}  share {m.off_diagonal_share:.3f}  "
                f"effective {m.effective_latents:5.2f}"
            )
        left = {name: left[name] for name in ranked[: (len(ranked) + 1) // 2]}
    write_json(options.out / "search.json", {"seed": SEED, "tolerance": TOLERANCE, "lines": lines})


if __name__ == "__main__":
    main()
