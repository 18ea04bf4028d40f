import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.reports.grids import LEGIBLE_PIXELS
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.reports.traversal_video import traversal_frames
from hessian_penalty.reports.video import write_mp4
from hessian_penalty.runs import RunFolder

pytest.importorskip("tensorboard", reason='needs the extra "training"')
pytest.importorskip("lightning_fabric", reason='needs the extra "training"')

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hessian_penalty.reports import monitor as monitor_module
from hessian_penalty.reports.monitor import PictureMonitor


@pytest.fixture
def ema() -> ProGANGenerator:
    torch.manual_seed(0)
    return ProGANGenerator(ProGANConfig(latent_dim=3, channels=(4, 4))).eval().requires_grad_(False)


def events(run: RunFolder) -> EventAccumulator:
    return EventAccumulator(str(run.path)).Reload()


def decoded(path: Path) -> NDArray[np.int64]:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)])


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
    time.sleep(1.1)  # the events' files are read in the order of their names, which tell the second
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
    monitor = PictureMonitor(run, video_every=1)
    monitor.on_snapshot(run, ema, 1.0)
    monitor.close()
    assert torch.equal(torch.get_rng_state(), state)


def films(run: RunFolder) -> list[str]:
    return sorted(path.name for path in run.traversals_path.glob("*.mp4"))


@pytest.mark.parametrize(("every", "filmed"), [(0, [6]), (2, [2, 4, 6]), (4, [4, 6])])
def test_the_last_snapshot_and_every_so_many_are_filmed(
    tmp_path: Path, ema: ProGANGenerator, every: int, filmed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "FRAMES", 2)
    run = RunFolder(tmp_path / "run")
    for kimgs in ((1.0, 2.0, 3.0), (4.0, 5.0, 6.016)):  # the second is resumed; the last step goes beyond the total
        monitor = PictureMonitor(run, video_every=every)
        for kimg in kimgs:
            monitor.on_step(kimg, 6.0)
            monitor.on_snapshot(run, ema, kimg)
        monitor.close()
    assert films(run) == [f"kimg-{6.016 if kimg == 6 else kimg:010.3f}.mp4" for kimg in filmed]
    steps = [event.step for event in events(run).Images("traversals_in_motion")]
    assert steps == [6016 if kimg == 6 else 1000 * kimg for kimg in filmed]


def test_the_film_is_the_traversal_in_file_and_events(
    tmp_path: Path, ema: ProGANGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "FRAMES", 6)
    run = RunFolder(tmp_path / "run")
    activeness = [0.1, 0.0, 0.2]
    monitor = PictureMonitor(run, seed=3, activeness=lambda _: activeness)
    monitor.on_step(2.0, 2.0)
    monitor.on_snapshot(run, ema, 2.0)
    monitor.close()
    source = list(traversal_frames(ema, activeness=activeness, seed=3, frames=6))
    expected = tmp_path / "expected.mp4"
    write_mp4(expected, source, frames_per_second=12)
    film = decoded(run.traversals_path / "kimg-000002.000.mp4")
    # not by bytes: the encoder takes other decisions now and then
    assert film.shape == (6, *source[0].shape) and np.abs(film - decoded(expected)).mean() < 1
    (event,) = events(run).Images("traversals_in_motion")
    assert (event.height, event.width) == source[0].shape[:2]
    animation: Any = Image.open(io.BytesIO(event.encoded_image_string))
    assert (animation.format, animation.n_frames, animation.info["loop"]) == ("PNG", 6, 0)
    assert animation.info["duration"] == pytest.approx(1000 / 12, abs=1)
    for number, frame in enumerate(source):
        animation.seek(number)
        assert (np.asarray(animation.convert("RGB")) == frame).all()


def test_a_tall_film_is_made_smaller_in_the_events_only(
    tmp_path: Path, ema: ProGANGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "FRAMES", 2)
    monkeypatch.setattr(monitor_module, "LARGEST_ANIMATION", 100)
    run = RunFolder(tmp_path / "run")
    monitor = PictureMonitor(run)
    monitor.on_step(1.0, 1.0)
    monitor.on_snapshot(run, ema, 1.0)
    monitor.close()
    with av.open(run.traversals_path / "kimg-000001.000.mp4") as container:
        assert container.streams.video[0].height == 196  # three rows of 64 pixels, 2 apart
    assert [event.height for event in events(run).Images("traversals_in_motion")] == [98]


def test_while_the_generator_grows_small_images_are_as_legible(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ema = ProGANGenerator(ProGANConfig(latent_dim=3, channels=(4, 4, 4), grows=True)).eval().requires_grad_(False)
    run = RunFolder(tmp_path / "run")
    monitor = PictureMonitor(run)
    for kimg, lod in ((1.0, 2.0), (2.0, 0.5)):
        ema.lod = lod
        monitor.on_snapshot(run, ema, kimg)
    monitor.close()
    for kimg, pixels in ((1, 4), (2, 16)):
        sheet = np.asarray(Image.open(run.samples_path / f"kimg-00000{kimg}.000.png"))
        assert sheet.shape[:2] == (4 * 66 - 2, 8 * 66 - 2)
        scale = LEGIBLE_PIXELS // pixels
        tile = sheet[:64, :64].reshape(pixels, scale, pixels, scale, 4)
        assert (tile == tile[:, :1, :, :1]).all(), "a pixel of the image is a block of the picture"
        assert len(np.unique(tile[:, 0, :, 0].reshape(-1, 4), axis=0)) > pixels, "and the blocks differ"


def test_a_negative_number_of_snapshots_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="video_every must be a finite number at least 0, got -1"):
        PictureMonitor(RunFolder(tmp_path), video_every=-1)
