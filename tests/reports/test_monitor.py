from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.runs import RunFolder

pytest.importorskip("tensorboard", reason='needs the extra "training"')
pytest.importorskip("lightning_fabric", reason='needs the extra "training"')

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hessian_penalty.reports.monitor import PictureMonitor


@pytest.fixture
def ema() -> ProGANGenerator:
    torch.manual_seed(0)
    return ProGANGenerator(ProGANConfig(latent_dim=3, channels=(4, 4))).eval().requires_grad_(False)


def events(run: RunFolder) -> EventAccumulator:
    return EventAccumulator(str(run.path)).Reload()


def test_every_snapshot_leaves_both_pictures_of_the_same_latents(tmp_path: Path, ema: ProGANGenerator) -> None:
    run = RunFolder(tmp_path / "run")
    monitor = PictureMonitor(run, seed=3)
    for kimg in (1.024, 15.008):
        monitor.on_step(kimg, 20.0)
        monitor.on_snapshot(run, ema, kimg)
    monitor.close()
    monitor.close()
    names = ["kimg-000001.024.png", "kimg-000015.008.png"]
    assert sorted(path.name for path in run.samples_path.iterdir()) == names
    assert sorted(path.name for path in run.traversals_path.iterdir()) == names
    first, second = (np.asarray(Image.open(run.samples_path / name)) for name in names)
    assert (first == second).all()
    assert (first == np.asarray(sample_sheet(ema, seed=3))).all()
    assert events(run).Tags()["images"] == ["samples", "traversals"]
    assert [event.step for event in events(run).Images("samples")] == [1024, 15008]


def test_the_activeness_handed_in_orders_the_rows(tmp_path: Path, ema: ProGANGenerator) -> None:
    seen: list[Any] = []

    def estimate(generator: Any) -> Sequence[float]:
        seen.append(generator)
        return [0.0, 0.1, 0.2]

    pictures = []
    for name, activeness in (("plain", None), ("ordered", estimate)):
        run = RunFolder(tmp_path / name)
        monitor = PictureMonitor(run, activeness=activeness)
        monitor.on_snapshot(run, ema, 1.0)
        monitor.close()
        pictures.append(
            np.asarray(Image.open(run.traversals_path / "kimg-000001.000.png"))[-3 * 66 + 2 :, -7 * 66 + 2 :]
        )
    plain, ordered = pictures
    assert seen == [ema]
    assert (plain[:64] == ordered[132:]).all()
    assert (plain[66:130] == ordered[66:130]).all()


def test_records_become_curves_and_a_resumed_run_writes_each_point_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    first = PictureMonitor(run)
    for kimg in (1.0, 2.0, 2.5):
        first.on_step(kimg, 4.0)
        first.on_log({"kimg": kimg, "critic_loss": 10 * kimg})
    first.close()
    resumed = PictureMonitor(run)  # from a checkpoint at 2.0
    resumed.on_step(2.032, 4.0)
    for kimg in (3.0, 4.0):
        resumed.on_log({"kimg": kimg, "critic_loss": kimg})
    resumed.close()
    found = events(run)
    assert found.Tags()["scalars"] == ["training/critic_loss"]
    points = [(event.step, event.value) for event in found.Scalars("training/critic_loss")]
    assert points == [(1000, 10.0), (2000, 20.0), (3000, 3.0), (4000, 4.0)]


def test_the_global_random_state_stays_as_it_is(tmp_path: Path, ema: ProGANGenerator) -> None:
    run = RunFolder(tmp_path / "run")
    state = torch.get_rng_state()
    monitor = PictureMonitor(run)
    monitor.on_snapshot(run, ema, 1.0)
    monitor.close()
    assert torch.equal(torch.get_rng_state(), state)
