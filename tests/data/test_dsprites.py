"""dSprites: files made exactly as the published one, each way to be wrong, and the pickle that must stay shut."""

import io
import math
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_penalty.data import array_import, dsprites
from hessian_penalty.data.dsprites import import_dsprites
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError

COUNT = 60


def _arrays(count: int = COUNT) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    classes = np.stack([np.zeros(count, int), *(rng.integers(0, n, count) for n in (3, 6, 40, 32, 32))], axis=1)
    classes[:3, 3] = (0, 39, 20)
    steps = [np.ones(1), np.arange(1, 4), np.linspace(0.5, 1, 6), np.linspace(0, 2 * math.pi, 40)]
    steps += [np.linspace(0, 1, 32)] * 2
    return {
        "imgs": rng.integers(0, 2, (count, 64, 64), dtype=np.uint8),
        "latents_classes": classes,
        "latents_values": np.stack([step[column] for step, column in zip(steps, classes.T, strict=True)], axis=1),
    }


class _Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickled metadata were read",))


def _write(path: Path, arrays: dict[str, np.ndarray] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.npy", pickle.dumps(_Trap()))
        for name, array in (_arrays() if arrays is None else arrays).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _write(tmp_path / "dsprites.npz")


def test_pictures_and_factors_come_in_as_they_are(source: Path, tmp_path: Path) -> None:
    arrays = _arrays()
    import_dsprites(source, 64, tmp_path / "set")
    dataset = ImageDataset(tmp_path / "set")
    assert (dataset.images_uint8.shape, dataset.image_channels) == ((COUNT, 64, 64, 1), 1)
    np.testing.assert_array_equal(dataset.images_uint8[..., 0], arrays["imgs"] * 255)
    shape, scale, orientation, x, y = dataset.factors()
    assert [(f.name, f.kind) for f in dataset.factors()] == [
        ("shape", "categorical"),
        ("scale", "continuous"),
        ("orientation", "circular"),
        ("x", "continuous"),
        ("y", "continuous"),
    ]
    classes = arrays["latents_classes"]
    assert shape.categories == ("square", "ellipse", "heart")
    np.testing.assert_array_equal(shape.values, classes[:, 1])
    np.testing.assert_allclose(scale.values, 0.5 + classes[:, 2] / 10)
    np.testing.assert_allclose(orientation.values, classes[:, 3] % 39 / 39, atol=1e-12)
    assert orientation.values[:2].tolist() == [0, 0]  # 0 and 2π
    assert orientation.values.max() < 1
    np.testing.assert_allclose(x.values, classes[:, 4] / 31)
    np.testing.assert_allclose(y.values, classes[:, 5] / 31)
    assert dataset.metadata["count"] == COUNT and dataset.metadata["kind"] == "dsprites"


@pytest.mark.parametrize("rows", [1, 7, 60, 1024])
def test_blocks_do_not_change_the_result(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(dsprites, "BLOCK_ROWS", rows)
    seen: list[tuple[int, int]] = []
    dataset = import_dsprites(
        source, 64, tmp_path / "set", count=20, seed=3, progress=lambda done, total: seen.append((done, total))
    )
    chosen = np.sort(np.random.default_rng(3).choice(COUNT, 20, replace=False))
    arrays = _arrays()
    np.testing.assert_array_equal(dataset.images_uint8[..., 0], arrays["imgs"][chosen] * 255)
    np.testing.assert_array_equal(dataset.factors()[0].values, arrays["latents_classes"][chosen, 1])
    np.testing.assert_array_equal(dataset.factors()[3].values, arrays["latents_values"][chosen, 4])
    assert seen[-1] == (20, 20) and len(seen) == -(-COUNT // rows)


def test_subsets_depend_on_the_seed(source: Path, tmp_path: Path) -> None:
    hashes = [
        import_dsprites(source, 64, tmp_path / str(number), count=20, seed=seed).sha256
        for number, seed in enumerate((0, 0, 1))
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    whole = import_dsprites(source, 64, tmp_path / "whole", count=COUNT)
    assert whole.sha256 == import_dsprites(source, 64, tmp_path / "all").sha256


@pytest.mark.parametrize("size", [32, 4])
def test_smaller_sizes_are_box_averages(source: Path, tmp_path: Path, size: int) -> None:
    small = import_dsprites(source, size, tmp_path / "small")
    large = import_dsprites(source, 64, tmp_path / "large")
    averages = (large.batch(slice(None), size).numpy() + 1) * 127.5  # by PyTorch
    assert small.images_uint8.shape == (COUNT, size, size, 1)
    assert np.abs(small.images_uint8.transpose(0, 3, 1, 2) - averages).max() <= 0.5 + 1e-3


def test_memory_is_bounded_by_a_block(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsprites, "BLOCK_ROWS", 8)
    largest = 0
    read = zipfile.ZipExtFile.read

    def watched(self: Any, n: int | None = -1) -> bytes:
        nonlocal largest
        data = read(self, n)
        largest = max(largest, len(data)) if self.name == "imgs.npy" else largest
        return data

    monkeypatch.setattr(zipfile.ZipExtFile, "read", watched)
    import_dsprites(source, 64, tmp_path / "set")
    assert largest == 8 * 64 * 64


def test_headers_of_python_2(source: Path, tmp_path: Path) -> None:
    arrays = _arrays()
    images = arrays.pop("imgs")
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (60L, 64L, 64L), }"
    header += b" " * (117 - len(header)) + b"\n"
    old = _write(tmp_path / "old.npz", arrays)
    with zipfile.ZipFile(old, "a") as archive:
        archive.writestr(
            "imgs.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + images.tobytes()
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = import_dsprites(old, 64, tmp_path / "set")
    assert dataset.sha256 == import_dsprites(source, 64, tmp_path / "new").sha256


def _with(**changed: Any) -> dict[str, np.ndarray]:
    return {name: array for name, array in {**_arrays(), **changed}.items() if array is not None}


def _latents(row: int, column: int, value: float) -> np.ndarray:
    latents = _arrays()["latents_values"]
    latents[row, column] = value
    return latents


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (_with(imgs=None), r"holds no array `imgs`, only metadata\.npy, latents_classes\.npy, latents_v.*: expected"),
        (_with(latents_values=None), "holds no array `latents_values`, only"),
        (_with(imgs=np.zeros((COUNT, 32, 32), np.uint8)), r"`imgs` is uint8 \(60, 32, 32\), expected uint8 \(N, 64, 6"),
        (_with(imgs=np.zeros((COUNT, 64, 64))), r"`imgs` is float64 \(60, 64, 64\), expected uint8"),
        (_with(imgs=np.zeros((0, 64, 64), np.uint8)), r"`imgs` is uint8 \(0, 64, 64\)"),
        (_with(imgs=np.asfortranarray(np.zeros((COUNT, 64, 64), np.uint8))), "64, 64\\) in Fortran order, expected"),
        (_with(imgs=np.array(5, np.uint8)), r"`imgs` is uint8 \(\), expected"),
        (_with(imgs=np.full((COUNT, 64, 64), 255, np.uint8)), "`imgs` holds 255, expected 0 and 1"),
        (_with(latents_values=np.zeros((COUNT, 5))), r"`latents_values` is float64 \(60, 5\), expected float64 \(N, "),
        (_with(latents_values=np.zeros((COUNT, 6), int)), "`latents_values` is int64"),
        (_with(latents_values=_arrays(50)["latents_values"]), "has 60 pictures and 50 rows of latents"),
        (_with(latents_values=_latents(4, 1, 4.0)), "shapes other than 1, 2, 3"),
        (_with(latents_values=_latents(4, 3, math.nan)), "is not finite"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    source = _write(tmp_path / "other.npz", arrays)
    with pytest.raises(UserError, match=message) as caught:
        import_dsprites(source, 64, tmp_path / "set")
    assert "other.npz" in str(caught.value) and "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz" in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_pickled_arrays_stay_shut(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([_Trap()] * COUNT, object), allow_pickle=True)
    source = _write(tmp_path / "other.npz", _with(imgs=None))
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("imgs.npy", buffer.getvalue())
    with pytest.raises(UserError, match=r"`imgs` is object \(60,\), expected uint8"):
        import_dsprites(source, 64, tmp_path / "set")


def _stored(path: Path, member: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, data)
    return path


def test_damaged_files(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    cut, flipped = tmp_path / "cut.npz", tmp_path / "flipped.npz"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.npz cannot be read \(File is not a zip file\): expected the published"):
        import_dsprites(cut, 64, tmp_path / "set")
    with zipfile.ZipFile(source) as archive:
        place = archive.getinfo("imgs.npy").header_offset + 5000
    flipped.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
    with pytest.raises(UserError, match=r"flipped\.npz cannot be read \(|holds \d+, expected 0 and 1"):
        import_dsprites(flipped, 64, tmp_path / "set")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (60, 64, 64)})
    arrays = {**_arrays()}
    arrays.pop("imgs")
    short = _write(tmp_path / "short.npz", arrays)
    with zipfile.ZipFile(short, "a") as archive:
        archive.writestr("imgs.npy", header.getvalue() + bytes(1000))
    with pytest.raises(UserError, match=r"short\.npz cannot be read \(.*\): expected the published"):
        import_dsprites(short, 64, tmp_path / "set")
    for name, content in (("magic", b"no array"), ("version", b"\x93NUMPY\x03\x00\x02\x00\x00\x00{}")):
        with pytest.raises(UserError, match=r"cannot be read \(.*(magic|version)"):
            import_dsprites(_stored(tmp_path / f"{name}.npz", "imgs.npy", content), 64, tmp_path / "set")
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.partial").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 128}, "`size` must be at most 64, the size of the dsprites pictures, got 128"),
        ({"size": 48}, "`size` must be a power of two from 4 to 1024, got 48"),
        ({"count": 0}, r"`count` must be from 1 to 60, all that .*dsprites\.npz holds, got 0"),
        ({"count": 61}, "`count` must be from 1 to 60, .* got 61"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
    ],
)
def test_options_are_checked(source: Path, tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        import_dsprites(source, options.pop("size", 64), tmp_path / "set", **options)
    assert list(tmp_path.iterdir()) == [source]


def test_paths_are_checked(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing does not exist\. Give the published dsprites file"):
        import_dsprites(tmp_path / "missing", 64, tmp_path / "set")
    with pytest.raises(UserError, match=r"is a folder\. Give the published dsprites file"):
        import_dsprites(tmp_path, 64, tmp_path / "set")
    with pytest.raises(UserError, match="exists already. Choose another --out"):
        import_dsprites(source, 64, source)


def test_interruption_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_dsprites(source, 64, tmp_path / "set", progress=interrupt)
    assert list(tmp_path.iterdir()) == [source]


def test_box_average_rounds_half_up() -> None:
    images = np.array([[0, 1], [1, 0]], np.uint8).reshape(1, 2, 2, 1)
    assert array_import.box_average(images, 1).tolist() == [[[[1]]]]
    assert array_import.box_average(images, 2) is not None
    np.testing.assert_array_equal(array_import.box_average(images, 2), images)
    full = np.full((1, 64, 64, 3), 255, np.uint8)
    assert np.unique(array_import.box_average(full, 4)).tolist() == [255]
