"""The demo: the main job, small, from what the package holds, in minutes on two cores."""

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.folder_lock import exclusive
from hessian_penalty.generators.loading import generator_config
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.reports.entry import ModelGroup
from hessian_penalty.reports.grids import side_by_side
from hessian_penalty.reports.page import write_report
from hessian_penalty.runs import RunFolder, atomic_path, read_json, write_json
from hessian_penalty.studies.comparison import run_entry
from hessian_penalty.studies.demo_assets import unpack_data, unpack_run
from hessian_penalty.studies.evaluation import Evaluator
from hessian_penalty.studies.rotation import rotate_run
from hessian_penalty.training.callbacks import LiveProgress
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.presets import PRESETS
from hessian_penalty.training.session import resume_run, settings_of, start_run

Stage = Callable[[str], AbstractContextManager[Callable[..., None]]]  # title → a bar: update(done, total)

SUMMARY_MEASURES = ("activeness", "effective_latents", "off_diagonal_share", "frechet")

GROUPS = {
    "clevr-simple": "One object on a plane: its place (two factors), hue and shape. Twelve latents for four factors.",
    "clevr-1fov": "A red cube that slides along one line: one factor. Twelve latents; eleven are surplus.",
}

DESCRIPTIONS = {
    "vanilla": "An ordinary generator, trained without the penalty.",
    "rotated": "The same generator, its latents turned onto the directions that the Hessian Penalty finds: "
    "no training, and exactly the same distribution of pictures.",
    "vanilla_trained_on": "The vanilla generator trained on without the penalty, for as long as the next one.",
    "rotated_finetuned": "The rotated generator trained on with the Hessian Penalty.",
}


@dataclass(frozen=True)
class DemoConfig:
    """What the demo does.

    Args:
        seed: of searches, trainings and measures.
        finetune_kimg: thousands of images of both fine-tunings.
        penalty: of the fine-tuning of the rotated generator.
        search: of the directions.
        protocol: numbers of samples of the measures.
        clevr_simple: a vanilla run to take instead of the shipped one.
        clevr_1fov: likewise.
    """

    seed: int = 0
    finetune_kimg: float = 16.0
    penalty: PenaltyConfig = field(
        default_factory=lambda: PRESETS["clevr-simple-tiny"].training("hessian", finetune=True).penalty
    )
    search: HessianSearch = field(default_factory=HessianSearch)
    protocol: MeasureProtocol = field(
        default_factory=lambda: MeasureProtocol(
            activeness_samples=100,
            hessian_samples=32,
            frechet_images=2000,
            reference_images=2000,
            kernel_subsets=0,
            path_length_pairs=0,
            predictability_pairs=0,
            audit_images=0,
        )
    )
    clevr_simple: Path | None = None
    clevr_1fov: Path | None = None

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, LARGEST_SEED - 1)
        check_number("finetune_kimg", self.finetune_kimg, 0.001)

    def quick(self) -> "DemoConfig":
        """The same steps at a size that only shows that they run: its figures mean nothing."""
        return replace(
            self,
            finetune_kimg=0.32,
            search=replace(self.search, sketches=16, held_out=8, rounds=1),
            protocol=replace(
                self.protocol,
                activeness_samples=4,
                hessian_samples=2,
                frechet_images=32,
                reference_images=32,
                batch_size=32,
            ),
        )


class Demo:
    """The demo in a folder: every step that is complete there is kept, an interrupted one goes on.

    ```
    data/{clevr-simple,clevr-1fov}/
    clevr-simple/{vanilla,rotated,vanilla_trained_on,rotated_finetuned}/   runs
    clevr-1fov/{vanilla,rotated}/
    report.html  summary.json  rotation.png
    ```

    Args:
        config: what to do.
        out: the folder.
        stage: makes a progress bar for each step.
    """

    def __init__(self, config: DemoConfig, out: str | Path, stage: Stage) -> None:
        self.config, self.out, self._stage = config, Path(out), stage
        self._seconds_path = self.out / "seconds.json"

    def run(self, command: str | None = None) -> dict[str, Any]:
        """Do what is left to do; returns what summary.json holds.

        Raises:
            UserError: the folder holds a demo with other settings, or another process is at work in it.
        """
        with exclusive(self.out):
            return self._run(command)

    def _run(self, command: str | None) -> dict[str, Any]:
        self._check_settings()
        groups: list[ModelGroup] = []
        summary: dict[str, Any] = {}
        own = {"clevr-simple": self.config.clevr_simple, "clevr-1fov": self.config.clevr_1fov}
        for name, description in GROUPS.items():
            dataset = unpack_data(name, self.out / "data" / name)
            own_run = own[name]
            vanilla = RunFolder.open(own_run) if own_run else unpack_run(name, self.out / name / "vanilla", dataset)
            runs = {"vanilla": vanilla, "rotated": self._rotate(name, vanilla)}
            if name == "clevr-simple":
                plain = replace(self._training(vanilla), penalty=PenaltyConfig())
                penalised = replace(plain, penalty=self.config.penalty)
                runs["vanilla_trained_on"] = self._finetune("vanilla_trained_on", plain, vanilla, dataset)
                runs["rotated_finetuned"] = self._finetune("rotated_finetuned", penalised, runs["rotated"], dataset)
            group = self._measure(name, description, runs, dataset)
            groups.append(group)
            summary[name] = {e.name: {key: e.measures[key] for key in SUMMARY_MEASURES} for e in group.entries}
        write_report(
            self.out / "report.html",
            "What each latent learned: the Hessian Penalty in minutes",
            groups,
            command=command,
        )
        self._draw_rotation(groups)
        summary["seconds"] = round(sum(self._seconds().values()), 1)
        write_json(self.out / "summary.json", summary)
        return summary

    def _draw_rotation(self, groups: list[ModelGroup]) -> None:
        """The picture of the README: the same generator's traversals before and after the rotation."""
        entries = {entry.name: entry for group in groups if group.name == "clevr-simple" for entry in group.entries}
        pictures = [Image.open(io.BytesIO(entries[name].traversal_png)) for name in ("vanilla", "rotated")]
        with atomic_path(self.out / "rotation.png") as temporary:
            side_by_side(pictures).save(temporary, optimize=True)

    def _check_settings(self) -> None:
        path = self.out / "demo.json"
        wanted = json.loads(json.dumps(asdict(self.config), default=str))
        if path.exists() and read_json(path) != wanted:
            raise UserError(f"{self.out} holds a demo with other settings. Choose another --out, or delete it.")
        write_json(path, wanted)

    def _rotate(self, name: str, vanilla: RunFolder) -> RunFolder:
        out = self.out / name / "rotated"
        if not out.exists():
            with self._timed(f"{name}: finding directions") as update:
                rotate_run(vanilla, out, method=self.config.search, seed=self.config.seed, progress=update)
        return RunFolder.open(out)

    def _training(self, vanilla: RunFolder) -> TrainingConfig:
        """The vanilla run's own settings, for the length of a fine-tuning."""
        return replace(
            settings_of(vanilla), total_kimg=self.config.finetune_kimg, snapshot_kimg=4.0, log_kimg=0.5,
            seed=self.config.seed + 1,
        )  # fmt: skip

    def _finetune(self, name: str, config: TrainingConfig, start: RunFolder, dataset: ImageDataset) -> RunFolder:
        run = RunFolder(self.out / "clevr-simple" / name)
        total = config.total_kimg - 1e-9
        if run.checkpoints() and run.state()["kimg"] >= total:
            return run
        with self._timed(f"clevr-simple: training {name}") as update:
            if run.checkpoints():
                trainer = resume_run(run)
            else:
                shutil.rmtree(run.path, ignore_errors=True)  # stopped before its first checkpoint
                trainer = start_run(config, dataset, run.path, finetune=start)
            trainer.callbacks = [LiveProgress(update)]
            trainer.train()
        return run

    def _measure(self, name: str, description: str, runs: dict[str, RunFolder], dataset: ImageDataset) -> ModelGroup:
        protocol = replace(self.config.protocol, seed=self.config.seed)
        evaluator = Evaluator(protocol, dataset, generator_config(runs["vanilla"]).resolution)
        entries = []
        with self._timed(f"{name}: measuring") as update:
            for index, (model, run) in enumerate(runs.items()):
                update(index, len(runs), model)
                entries.append(run_entry(run, evaluator, model, DESCRIPTIONS[model]))
            update(len(runs), len(runs), "")
        return ModelGroup(name, entries, description)

    @contextmanager
    def _timed(self, title: str) -> Iterator[Callable[..., None]]:
        """A bar for a step, whose duration counts even where it is interrupted."""
        start = time.monotonic()
        try:
            with self._stage(title) as update:
                yield update
        finally:
            seconds = self._seconds()
            seconds[title] = seconds.get(title, 0.0) + time.monotonic() - start
            write_json(self._seconds_path, seconds)

    def _seconds(self) -> dict[str, float]:
        return dict(read_json(self._seconds_path)) if self._seconds_path.exists() else {}
