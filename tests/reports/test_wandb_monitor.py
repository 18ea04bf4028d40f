import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.reports.wandb_monitor import WandbMonitor
from hessian_penalty.runs import RunFolder, read_json, write_json


class Refused(Exception):
    pass


class FakeWandb(ModuleType):
    """Keeps what it is told; runs have the ids run1, run2, … unless one is asked for."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=Refused)
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0
        self.refuses = False

    def init(self, *, project: str, name: str, id: str | None, resume: str, dir: str, config: dict[str, Any]) -> Any:
        if self.refuses:
            raise Refused("api_key not configured")
        self.begun.append({"project": project, "name": name, "id": id, "resume": resume, "dir": dir, "config": config})
        return SimpleNamespace(id=id or f"run{len(self.begun)}", log=self._log, finish=self._finish)

    def _log(self, data: dict[str, Any], *, step: int) -> None:
        self.logged.append((step, data))

    def _finish(self) -> None:
        self.finished += 1

    def Image(self, data_or_path: str) -> Any:
        return ("image", data_or_path)

    def Video(self, data_or_path: str, *, format: str) -> Any:
        return ("video", data_or_path, format)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "vanilla")
    write_json(run.config_path, {"seed": 3, "generator": {"channels": [4, 4]}})
    return run


@pytest.fixture
def ema() -> ProGANGenerator:
    return ProGANGenerator(ProGANConfig(latent_dim=3, channels=(4, 4))).eval().requires_grad_(False)


def test_it_begins_with_the_runs_settings_in_its_folder(
    wandb: FakeWandb, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.path)
    WandbMonitor(RunFolder("."), "clevr")
    WandbMonitor(run, "clevr", config={"seed": 4})
    begun = {"project": "clevr", "name": "vanilla", "id": None, "resume": "allow", "dir": str(run.path.resolve())}
    assert wandb.begun[0] == {**begun, "config": {"seed": 3, "generator": {"channels": [4, 4]}}}
    assert wandb.begun[1]["config"] == {"seed": 4}


def test_figures_are_logged_at_real_images_seen(wandb: FakeWandb, run: RunFolder) -> None:
    monitor = WandbMonitor(run, "clevr")
    monitor.on_log({"kimg": 1.024, "critic_loss": 0.5, "penalty": 2.0})
    assert wandb.logged == [(1024, {"training/critic_loss": 0.5, "training/penalty": 2.0})]


def test_pictures_and_the_video_of_a_snapshot_are_those_of_the_run_folder(
    wandb: FakeWandb, run: RunFolder, ema: ProGANGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard", reason='needs the extra "training"')
    from hessian_penalty.reports import monitor as picture_monitor

    monkeypatch.setattr(picture_monitor, "FRAMES", 2)
    pictures, monitor = picture_monitor.PictureMonitor(run), WandbMonitor(run, "clevr")
    for kimg in (1.0, 2.0):
        for callback in (pictures, monitor):
            callback.on_step(kimg, 2.0)
            callback.on_snapshot(run, ema, kimg)
    pictures.close()
    (_, first), (step, last) = wandb.logged
    assert first == {
        "samples": ("image", str(run.samples_path / "kimg-000001.000.png")),
        "traversals": ("image", str(run.traversals_path / "kimg-000001.000.png")),
    }
    assert step == 2000
    assert last["traversals_in_motion"] == ("video", str(run.traversals_path / "kimg-000002.000.mp4"), "mp4")
    assert len(last) == 3


def test_a_resumed_run_goes_on_in_the_same_one(wandb: FakeWandb, run: RunFolder) -> None:
    first = WandbMonitor(run, "clevr")
    assert read_json(run.path / "wandb.json") == {"project": "clevr", "id": "run1"}
    first.close()
    first.close()
    assert wandb.finished == 1
    WandbMonitor(run, "clevr")
    assert [call["id"] for call in wandb.begun] == [None, "run1"]
    assert read_json(run.path / "wandb.json")["id"] == "run1"


def test_without_the_package_the_remedy_is_named(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"needs `wandb`, which cannot be imported \(.*\): pip install wandb$"):
        WandbMonitor(run, "clevr")


def test_helpful_errors(wandb: FakeWandb, run: RunFolder) -> None:
    wandb.refuses = True
    with pytest.raises(UserError, match="does not begin the run: api_key not configured. Log in with `wandb login`"):
        WandbMonitor(run, "clevr")
    assert not (run.path / "wandb.json").exists()
    wandb.refuses = False
    WandbMonitor(run, "clevr")
    with pytest.raises(UserError, match="vanilla is in the project 'clevr' of Weights & Biases, got 'other'"):
        WandbMonitor(run, "other")
    for damaged in ({"project": "clevr"}, {"id": "run1"}, {"project": "clevr", "id": 1}):
        write_json(run.path / "wandb.json", damaged)
        with pytest.raises(UserError, match="wandb.json must hold `project` and `id`; delete it"):
            WandbMonitor(run, "clevr")
    assert len(wandb.begun) == 1
