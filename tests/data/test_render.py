"""Rendering: a picture shows its factors, and a data set's bytes follow from its recipe alone."""

import colorsys
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_penalty.data import render
from hessian_penalty.data.clevr import FAMILIES, POSITION_RANGE, SHAPES, SIDE_RANGE, SIZE_RANGE, Object, Scene
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.data.mitsuba_scene import render_scene
from hessian_penalty.errors import UserError

pytest.importorskip("mitsuba", reason="the render extra is not installed")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "chunk_images", lambda size: 3)


def _render(out: Path, **changes: Any) -> ImageDataset:
    settings = {"name": "clevr-simple", "count": 8, "size": 16, "workers": 1, **changes}
    return render.render_dataset(out=out, **settings)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _alone(x: float, y: float, hue: float, shape: str, size: float = 1.0) -> Scene:
    return Scene((Object(x, y, hue, shape, size),))


def _coloured(pixels: np.ndarray) -> np.ndarray:
    """Where the object is: the ground and the lights are almost grey."""
    levels = pixels.astype(int)
    return levels.max(-1) - levels.min(-1) > 60


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("hue", [0.0, 0.2, 0.4, 0.6, 0.8])
def test_colour_is_the_hue(shape: str, hue: float) -> None:
    pixels = render_scene(_alone(0.0, 0.0, hue, shape), 32, seed=0)
    seen = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in pixels[_coloured(pixels)] / 255])
    assert len(seen) > 30
    offset = (seen - hue + 0.5) % 1 - 0.5
    assert np.abs(np.median(offset)) < 0.02


def test_object_moves_right_with_x_and_up_with_y() -> None:
    def centroid(x: float, y: float) -> np.ndarray:
        return np.argwhere(_coloured(render_scene(_alone(x, y, 0.6, "sphere"), 32, seed=0))).mean(0)

    steps = np.linspace(-POSITION_RANGE, POSITION_RANGE, 4)
    along_x = np.array([centroid(x, 0.0) for x in steps])
    along_y = np.array([centroid(0.0, y) for y in steps])
    assert (np.diff(along_x[:, 1]) > 4).all() and np.ptp(along_x[:, 0]) < 1  # columns; the row stays
    assert (np.diff(along_y[:, 0]) < -2).all() and np.ptp(along_y[:, 1]) < 1  # rows count downwards


@pytest.mark.parametrize(("x_reach", "size"), [(POSITION_RANGE, 1.0), (SIDE_RANGE[1], SIZE_RANGE[1])])
def test_object_is_in_the_picture_wherever_it_stands(x_reach: float, size: float) -> None:
    middle = _coloured(render_scene(_alone(0.0, 0.0, 0.0, "sphere", size), 32, seed=0)).sum()
    for x in (-x_reach, x_reach):
        for y in (-POSITION_RANGE, POSITION_RANGE):
            assert _coloured(render_scene(_alone(x, y, 0.0, "sphere", size), 32, seed=0)).sum() > 0.6 * middle


def _row(y: float, z: float) -> float:
    """The row, in a picture of 64, of the points at height z and depth y: the camera as a pinhole."""
    camera, target = np.array([-8.2, 6.4]), np.array([-0.1, 0.35])
    ahead = (target - camera) / np.linalg.norm(target - camera)
    up = np.array([-ahead[1], ahead[0]])
    ray = np.array([y, z]) - camera
    return float(32 - 32 * (ray @ up) / (ray @ ahead) / np.tan(np.radians(33 / 2)))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [0.5, 1.0])
def test_object_stands_on_the_ground_and_is_as_large_as_its_size(shape: str, size: float) -> None:
    if shape == "sphere":
        angles = np.linspace(0, 2 * np.pi, 721)
        outline = [(0.9 * np.cos(angle), 0.9 + 0.9 * np.sin(angle)) for angle in angles]
    else:
        reach, height = (0.9, 1.8) if shape == "cylinder" else (0.81 * (np.sin(np.pi / 6) + np.cos(np.pi / 6)), 1.62)
        outline = [(y, z) for y in (-reach, reach) for z in (0, height)]
    expected = [_row(size * y, size * z) for y, z in outline]
    rows = np.flatnonzero(_coloured(render_scene(_alone(0.0, 0.0, 0.0, shape, size), 64, seed=0)).any(1))
    assert abs(rows[0] - min(expected)) < 1.5 and abs(rows[-1] + 1 - max(expected)) < 1.5


@pytest.mark.parametrize(
    ("shape", "depths"), [("cube", (-1.6, -1.6)), ("cube", (1.6, -1.6)), ("cylinder", (-1.6, 1.6))]
)
def test_two_objects_never_hide_each_other(shape: str, depths: tuple[float, float]) -> None:
    left, right = (Object(x, y, 0.9, shape, SIZE_RANGE[1]) for x, y in zip((-0.85, 0.85), depths, strict=True))
    together, one, other = (
        _coloured(render_scene(Scene(objects), 64, seed=0)) for objects in ((left, right), (left,), (right,))
    )
    assert one[:, :32].sum() > 50 and other[:, 32:].sum() > 50
    assert not one[:, 32:].any() and not other[:, :32].any()
    assert (together ^ (one | other)).sum() < 0.05 * (one | other).sum()  # a shadow may dim an edge


def test_shapes_differ() -> None:
    views = [_coloured(render_scene(_alone(0.0, 0.0, 0.0, shape), 32, seed=0)) for shape in SHAPES]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (views[one] ^ views[other]).sum() > 20


def test_plain_ground_is_quiet() -> None:
    pixels = render_scene(_alone(1.2, 1.2, 0.0, "sphere"), 64, seed=0).astype(float)
    ground = pixels[-16:, :16]
    assert 60 < ground.mean() < 220
    for axis in (0, 1):
        assert np.diff(ground, axis=axis).std() < 2.0  # grey levels of 255


def test_same_scene_gives_the_same_bytes_every_time() -> None:
    # Scenes are built and freed in between: nothing may depend on where they lie in memory.
    for shape in SHAPES:
        views = {render_scene(_alone(0.3, 0.2, 0.1, shape), 8, seed=5).tobytes() for _ in range(60)}
        assert len(views) == 1
    assert render_scene(_alone(0.3, 0.2, 0.1, "cube"), 8, seed=6).tobytes() not in views


def test_workers_do_not_change_the_bytes(tmp_path: Path) -> None:
    alone, pair = _render(tmp_path / "alone", workers=1), _render(tmp_path / "pair", workers=2)
    assert alone.images_uint8.min() < alone.images_uint8.max()
    assert _bytes(alone.path) == _bytes(pair.path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "pair"]


def test_seed_changes_factors_and_pictures(tmp_path: Path) -> None:
    one, other = _render(tmp_path / "one", count=2), _render(tmp_path / "other", count=2, seed=2**40)
    assert not np.array_equal(one.images_uint8, other.images_uint8)
    assert not np.array_equal(one.factors()[0].values, other.factors()[0].values)


def test_rows_belong_together(tmp_path: Path) -> None:
    dataset = _render(tmp_path / "set", size=32)
    factors = dataset.factors()
    for index in range(len(dataset)):
        scene = FAMILIES["clevr-simple"].scene(factors, index)
        again = render_scene(scene, 32, seed=index)
        np.testing.assert_array_equal(dataset.images_uint8[index], again)


def _interrupt_after(images: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done >= images:
            raise KeyboardInterrupt

    return progress


def _interrupted(out: Path, images: int = 3) -> Path:
    with pytest.raises(KeyboardInterrupt):
        _render(out, progress=_interrupt_after(images))
    assert not out.exists()
    return out.with_name(out.name + ".partial")


def test_interrupted_render_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = _render(tmp_path / "whole")
    partial = _interrupted(tmp_path / "resumed")
    kept = np.load(partial / "images.npy")
    assert kept[:3].any() and not kept[3:].any()
    seen: list[int] = []
    resumed = _render(tmp_path / "resumed", progress=lambda done, total: seen.append(done))
    assert seen == [3, 6, 8]
    assert _bytes(whole.path) == _bytes(resumed.path)
    assert not partial.exists()


def test_interruption_just_before_the_end_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _render(tmp_path / "whole")
    for step in ("replace", "unlink"):
        out = tmp_path / step
        with monkeypatch.context() as patch:
            if step == "replace":
                patch.setattr("hessian_penalty.data.partial_folder.os.replace", _raise_for(out))
            else:
                patch.setattr(Path, "unlink", _raise_for(out / "done.npy", Path.unlink))
            with pytest.raises(KeyboardInterrupt):
                _render(out)
        if step == "replace":
            seen: list[int] = []
            _render(out, progress=lambda done, total, seen=seen: seen.append(done))  # type: ignore[misc]
            assert seen == [8]
        np.testing.assert_array_equal(ImageDataset(out).images_uint8, whole.images_uint8)


def _raise_for(target: Path, otherwise: Any = None) -> Any:
    import os

    otherwise = otherwise or os.replace

    def call(*paths: Path, **options: Any) -> Any:
        if paths[-1] == target:
            raise KeyboardInterrupt
        return otherwise(*paths, **options)

    return call


@pytest.mark.parametrize("damage", ["cut", "missing", "garbage", "flags"])
def test_damaged_partial_folder_is_rendered_anew(tmp_path: Path, damage: str) -> None:
    whole = _render(tmp_path / "whole", count=4)
    out = tmp_path / "damaged"
    with pytest.raises(KeyboardInterrupt):
        _render(out, count=4, progress=_interrupt_after(3))
    images = tmp_path / "damaged.partial" / "images.npy"
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:500])
    elif damage == "missing":
        images.unlink()
    elif damage == "garbage":
        images.write_bytes(b"no array")
    else:
        np.save(images.with_name("done.npy"), np.ones(7, bool))
    np.testing.assert_array_equal(_render(out, count=4).images_uint8, whole.images_uint8)


def test_partial_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    partial = _interrupted(tmp_path / "set")
    before = _bytes(partial)
    with pytest.raises(UserError, match=r"interrupted data set with other settings \(seed 0, now 1\)\. Repeat those"):
        _render(tmp_path / "set", seed=1)
    assert _bytes(partial) == before


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"set\.partial is in the way: no data set is being made there"):
        _render(tmp_path / "set")
    assert (tmp_path / "set.partial" / "thesis.tex").exists()


def test_full_disk_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        UserError, match=r"images\.npy needs .* GB on the disk, which cannot be reserved \(No space left"
    ):
        _render(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []  # nothing is left that would stand in the way of a smaller one


def test_absurd_count_is_a_matter_of_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reserved"):
        _render(tmp_path / "set", count=10**14)


def test_dead_worker_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

        def map(self, *arguments: Any) -> Any:
            raise render.BrokenProcessPool("a child died")

        def shutdown(self, **options: Any) -> None: ...

    monkeypatch.setattr(render, "ProcessPoolExecutor", Pool)
    with pytest.raises(UserError, match=r"worker died: out of memory.*repeat with fewer --workers to go on"):
        _render(tmp_path / "set", workers=2)


def test_missing_mitsuba_is_said_clearly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(UserError, match=r"needs Mitsuba, .*pip install 'hessian-penalty\[render\]'"):
        _render(tmp_path / "set")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "clever"}, "Unknown data set 'clever'; choose one of clevr-simple, clevr-1fov, clevr-complex"),
        ({"name": "clevr-u"}, "clevr-u is clevr-simple's data learned with 3 latents: render clevr-simple"),
        ({"count": 0}, "`count` must be at least 1, got 0"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"workers": 0}, "`workers` must be at least 1, got 0"),
        ({"size": 2}, "`size` must be a power of two from 4 to 1024, got 2"),
        ({"size": 48}, "`size` must be a power of two from 4 to 1024, got 48"),
        ({"size": 2048}, "`size` must be a power of two from 4 to 1024, got 2048"),
        ({"size": -8}, "`size` must be a power of two from 4 to 1024, got -8"),
    ],
)
def test_bad_arguments(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        _render(tmp_path / "set", **changes)
    assert not any(tmp_path.iterdir())


def test_out_that_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(UserError, match=r"exists already. Choose another --out"):
            _render(taken)
