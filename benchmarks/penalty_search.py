"""Which settings of the penalty disentangle best without cost to the images: successive halving on one seed, then all.

    hessian-penalty study clevr-simple-tiny --seeds 3 --out runs/study     # makes the vanilla starts
    python benchmarks/penalty_search.py runs/study --out runs/search

Every setting trains the study's start of seed 0 on, most of them from its rotated form; after 8 kimg the better
half goes on to 16. First come those whose Fréchet distance is within 5% of the same training without a penalty, by the
mean of the factor audit's scores; then the others, by their distance. The last two, and what they are compared with,
are then trained over all seeds of the study. Interrupted, it goes on when repeated.
"""

import argparse
import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

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
FINALISTS = 2
PROTOCOL = MeasureProtocol(path_length_pairs=0, predictability_pairs=0)
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
    "first layers": Setting(replace(BASE, layers=("blocks.[0-1].norm?",))),
    "not scale-free": Setting(replace(BASE, scale_free=False)),
    "maximum": Setting(replace(BASE, reduction="max")),
    "no ramp": Setting(replace(BASE, ramp_kimg=0.0)),
    "late": Setting(replace(BASE, start_kimg=3.0, ramp_kimg=1.0)),
    "of average": Setting(replace(BASE, of_average=True)),
    "of average, 10%": Setting(replace(BASE, of_average=True, adaptive=0.1)),
    "not rotated": Setting(BASE, "start"),
    "not rotated, 10%": Setting(replace(BASE, adaptive=0.1), "start"),
}


class Search:
    """Trains and measures settings in a folder, from the starts of a study."""

    def __init__(self, study: Path, out: Path, workers: int) -> None:
        self.study, self.out, self.workers = study, out, workers
        first = self.start("start", 0)
        self.data: ImageDataset = data_of(first)
        self.resolution = generator_config(first).resolution
        self.evaluator = Evaluator(PROTOCOL, self.data, self.resolution)
        self.evaluator.tools.prepare()

    def start(self, name: str, seed: int) -> RunFolder:
        return RunFolder.open(self.study / f"seed-{seed}" / name)

    def run_of(self, name: str, seed: int) -> RunFolder:
        return RunFolder(self.out / f"seed-{seed}" / name.replace(" ", "-").replace(",", "").replace("%", ""))

    def make(self, settings: dict[str, Setting], seeds: list[int], kimg: float) -> None:
        """Train to `kimg`, or on to it, and measure."""
        tasks = []
        for seed in seeds:
            for name, setting in settings.items():
                start, run = self.start(setting.start, seed), self.run_of(name, seed)
                record = start.config()
                record.pop("provenance")
                config = replace(
                    from_record(TrainingConfig, record, str(start.config_path)),
                    penalty=setting.penalty, total_kimg=kimg, seed=seed + FINETUNE_SEED, snapshot_kimg=RUNGS[0],
                )  # fmt: skip
                if run.checkpoints():  # a longer run of the same settings
                    write_json(run.config_path, run.config() | {"total_kimg": kimg})
                train = partial(train_arm, config, self.data.path, run.path, start.path, {"setting": name})
                measure = partial(measure_arm, self.data.path, PROTOCOL, self.resolution, run.path)
                tasks += [Task(f"{seed} {name}", train), Task(f"{seed} {name}: measures", measure, (f"{seed} {name}",))]
        runs = [self.run_of(name, seed) for seed in seeds for name in settings]
        with progress_bar(f"{len(settings)} settings to {kimg:g} kimg") as update:
            failed = run_tasks(
                tasks, workers=self.workers, watch=lambda _: update(sum(map(recorded_kimg, runs)), kimg * len(runs))
            )
        for name, error in failed.items():
            print(f"{name}: {error}")

    def measures(self, name: str, seed: int) -> Measures | None:
        run = self.run_of(name, seed)
        return None if divergence_of(run) else self.evaluator(run)


def score(measures: Measures) -> float:
    return fmean(getattr(measures.audit, name) for name in SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of `hessian-penalty study`")
    parser.add_argument("--out", type=Path, default=Path("runs/penalty-search"))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rungs", type=float, nargs="+", default=list(RUNGS), help="kimg")
    options = parser.parse_args()
    search = Search(options.study, options.out, options.workers)

    left, lines = dict(SETTINGS), []
    for kimg in options.rungs:
        search.make(CONTROLS | left, [0], kimg)
        control = search.measures("no penalty", 0)
        limit = TOLERANCE * control.frechet
        found = {name: m for name in CONTROLS | left if (m := search.measures(name, 0)) is not None}
        ranked = sorted(
            (name for name in left if name in found),
            key=lambda name: (max(found[name].frechet - limit, 0.0), -score(found[name])),
        )
        print(f"\nAfter {kimg:g} kimg, seed 0; the distance must not exceed {limit:.0f}:")
        for name in [*CONTROLS, *ranked]:
            m = found[name]
            line = {
                "kimg": kimg, "setting": name, "frechet": m.frechet, "score": score(m),
                "effective_latents": m.effective_latents, "off_diagonal_share": m.off_diagonal_share,
            }  # fmt: skip
            lines.append(line | {key: getattr(m.audit, key) for key in SCORES})
            print(f"  {name:<40} distance {m.frechet:7.1f}  score {score(m):.3f}  effective {m.effective_latents:5.2f}")
        left = {name: left[name] for name in ranked[: max(FINALISTS, len(ranked) // 2)]}
    finalists = {name: left[name] for name in list(left)[:FINALISTS]}
    seeds = sorted(int(path.name.removeprefix("seed-")) for path in options.study.glob("seed-*"))
    search.make(CONTROLS | finalists, seeds, options.rungs[-1])
    print(f"\nOver seeds {seeds}:")
    final = {}
    for name in CONTROLS | finalists:
        known = [m for seed in seeds if (m := search.measures(name, seed)) is not None]
        values = {"frechet": [m.frechet for m in known], "score": [score(m) for m in known]}
        values |= {key: [getattr(m.audit, key) for m in known] for key in SCORES}
        final[name] = values
        shown = "  ".join(
            f"{key} {fmean(v):.3f}" + (f" ± {stdev(v):.3f}" if len(v) > 1 else "") for key, v in values.items()
        )
        print(f"  {name:<40} {shown}")
    write_json(options.out / "search.json", json.loads(json.dumps({"rungs": lines, "final": final})))


if __name__ == "__main__":
    main()
