"""A study: the same generator disentangled by every method, over several seeds, and measured."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import LARGEST_SEED, UserError, check_number
from hessian_penalty.folder_lock import exclusive
from hessian_penalty.metrics.measures import Measures
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, read_record, write_json
from hessian_penalty.studies.arm_making import divergence_of, measure_arm, recorded_kimg, rotate_arm, train_arm
from hessian_penalty.studies.arms import ARMS, DEFAULT_ARMS, Arm, training_of, with_starts
from hessian_penalty.studies.demo_assets import IMAGES, unpack_data
from hessian_penalty.studies.evaluation import Evaluator
from hessian_penalty.studies.task_pool import Task, run_tasks
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.presets import PRESETS
from hessian_penalty.training.trainer import DivergedRun

Stage = Callable[[str], AbstractContextManager[Callable[..., None]]]  # title → a bar: update(done, total)


@dataclass(frozen=True)
class StudyConfig:
    """What a study compares.

    Args:
        seeds: trainings of each model, from seed 0.
        arms: the models, besides those that they start from.
        total_kimg: thousands of images that each model sees; 0 takes the preset's.
        finetune_kimg: the last part of it, for those that are trained on from the vanilla start; 0 takes a quarter.
        protocol: numbers of samples of the measures.
    """

    seeds: int = 3
    arms: tuple[str, ...] = DEFAULT_ARMS
    total_kimg: float = 0.0
    finetune_kimg: float = 0.0
    protocol: MeasureProtocol = field(default_factory=MeasureProtocol)

    def __post_init__(self) -> None:
        check_number("seeds", self.seeds, 1, LARGEST_SEED)
        check_number("total_kimg", self.total_kimg, 0)
        check_number("finetune_kimg", self.finetune_kimg, 0)
        with_starts(self.arms)  # complains of unknown ones

    def of(self, preset: str) -> "StudyConfig":
        """With the preset's lengths where none are given.

        Raises:
            UserError: the fine-tuning is as long as the whole.
        """
        total = self.total_kimg or PRESETS[preset].study_kimg
        finetune = self.finetune_kimg or total / 4
        if finetune >= total:
            raise UserError(f"finetune_kimg ({finetune:g}) is the last part of total_kimg ({total:g}): give less.")
        return replace(self, total_kimg=total, finetune_kimg=finetune)


class Study:
    """A study in a folder: what is complete there is kept, what was interrupted goes on.

    ```
    study.json  data/  seed-0/{start,vanilla,infogan,…}/  seed-1/…
    ```

    Args:
        preset: the experiment.
        config: what to compare.
        out: the folder.
        data: the real images; None takes the pictures that the package holds, where it holds the preset's.
        workers: processes.
        stage: makes a progress bar.

    Raises:
        UserError: an unknown preset, no data, or the folder holds a study with other settings.
    """

    def __init__(
        self, preset: str, config: StudyConfig, out: str | Path, *, data: Path | None = None, workers: int, stage: Stage
    ) -> None:
        if preset not in PRESETS:
            raise UserError(f"Unknown preset {preset!r}; choose one of {', '.join(PRESETS)}.")
        check_number("workers", workers, 1)
        self.preset, self.config, self.out = preset, config.of(preset), Path(out)
        self._workers, self._stage = workers, stage
        self.dataset = ImageDataset(data) if data is not None else self._shipped_data()
        self._check_settings()
        self.compared = [ARMS[name] for name in config.arms]

    def _shipped_data(self) -> ImageDataset:
        name = self.preset.removesuffix("-tiny").replace("clevr-u", "clevr-simple")
        if name in IMAGES and self.preset.endswith("-tiny"):
            return unpack_data(name, self.out / "data")
        command = PRESETS[self.preset].data
        raise UserError(f"The study of {self.preset} needs pictures: make them by `{command}`, then give --data DIR.")

    def _check_settings(self) -> None:
        path = self.out / "study.json"
        wanted = {
            "preset": self.preset, "data_sha256": self.dataset.sha256, "total_kimg": self.config.total_kimg,
            "finetune_kimg": self.config.finetune_kimg,
        }  # fmt: skip
        if path.exists() and (held := read_record(path)) != wanted:
            raise UserError(f"{self.out} holds a study with other settings ({held}). Choose another --out.")
        write_json(path, wanted)

    def run_of(self, name: str, seed: int) -> RunFolder:
        """Where a model is kept."""
        return RunFolder(self.out / f"seed-{seed}" / name)

    @property
    def seeds(self) -> range:
        """Of the trainings."""
        return range(self.config.seeds)

    def _each(self, arms: list[Arm]) -> list[tuple[Arm, int]]:
        """Models and seeds, one seed after the other."""
        return [(arm, seed) for seed in self.seeds for arm in arms]

    # making

    def make(self) -> None:
        """Train and rotate what is not made yet; a training that diverges is a result, and the others go on.

        Raises:
            UserError: what the measures need is missing, or a model failed, after all that do not depend on it.
        """
        self.evaluator.tools.load_networks()
        models = self._each(with_starts(self.config.arms))
        tasks = [
            Task(f"seed-{seed}/{arm.name}", self._work(arm, seed), (f"seed-{seed}/{arm.start}",) if arm.start else ())
            for arm, seed in models
        ]
        lengths = [
            (self.run_of(arm.name, seed), self._training(arm, seed).total_kimg) for arm, seed in models if arm.method
        ]
        total = sum(length for _, length in lengths)
        with self._stage("training (kimg)") as update:
            self._run(tasks, lambda _: update(sum(min(recorded_kimg(run), length) for run, length in lengths), total))

    def _run(self, tasks: list[Task], watch: Callable[[int], None]) -> None:
        threads = max(1, (os.cpu_count() or 1) // self._workers)
        with exclusive(self.out):
            failed = run_tasks(tasks, workers=self._workers, threads=threads, watch=watch)
        for name, error in failed.items():
            if not isinstance(error, DivergedRun):
                raise UserError(f"{name}: {error}")

    def _training(self, arm: Arm, seed: int) -> TrainingConfig:
        return training_of(arm, PRESETS[self.preset], seed, self.config.total_kimg, self.config.finetune_kimg)

    def _work(self, arm: Arm, seed: int) -> Callable[[], None]:
        out, start = self.run_of(arm.name, seed).path, self.run_of(arm.start, seed).path if arm.start else None
        if arm.method is None and start is not None:
            return partial(rotate_arm, start, out, seed)
        provenance = {"preset": self.preset, "method": arm.method}
        return partial(train_arm, self._training(arm, seed), self.dataset.path, out, start, provenance)

    # measuring

    def measure(self) -> None:
        """Measure what is not measured yet."""
        paths = [
            self.run_of(arm.name, seed).path for arm, seed in self._each(self.compared) if self.is_there(arm, seed)
        ]
        with self._stage("measuring (models)") as update:
            update(0, len(paths), "reading the data set")
            self.evaluator.tools.prepare()  # once, into the cache of all workers
            work = partial(measure_arm, self.dataset.path, self.config.protocol, self._resolution)
            tasks = [Task(str(path), partial(work, path)) for path in paths]
            self._run(tasks, lambda done: update(done, len(tasks), "measuring"))

    @property
    def evaluator(self) -> Evaluator:
        """Of this study's data and protocol."""
        return Evaluator(self.config.protocol, self.dataset, self._resolution)

    @property
    def _resolution(self) -> int:
        return PRESETS[self.preset].vanilla.generator.resolution

    def is_there(self, arm: Arm, seed: int) -> bool:
        """Whether a model could be made: not so where it, or one that it starts from, diverged."""
        run = self.run_of(arm.name, seed)
        return bool(run.checkpoints()) and divergence_of(run) is None

    def measures(self) -> dict[str, dict[int, Measures]]:
        """Model → seed → what was measured."""
        evaluator = self.evaluator
        return {
            arm.name: {seed: evaluator(self.run_of(arm.name, seed)) for seed in self.seeds if self.is_there(arm, seed)}
            for arm in self.compared
        }
