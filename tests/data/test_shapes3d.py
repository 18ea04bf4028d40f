"""3D Shapes: files made exactly as the published one, and each way to be wrong."""

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_penalty.data import shapes3d
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.data.shapes3d import import_shapes3d
from hessian_penalty.errors import UserError

h5py = pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
COUNT = 48


def _arrays() -> dict[str, np.ndarray]:
    hues, shapes = (0.0, 0.3, 0.9), (0, 1, 2, 3)
    steps = [hues[:2], hues[1:], hues[::2], (0.75, 1.25), shapes, (-30.0, 30.0)]
    labels = np.array(list(itertools.product(*steps)), float)[:: 128 // COUNT][:COUNT]
    labels = labels[np.random.default_rng(1).permutation(COUNT)]
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 64, 64, 3), dtype=np.uint8)
    return {"images": images, "labels": labels}


def _write(path: Path, arrays: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file.create_dataset(name, data=array)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "3dshapes.h5"
    arrays = _arrays()
    with h5py.File(path, "w") as file:  # in compressed chunks
        file.create_dataset("images", data=arrays["images"], chunks=(10, 64, 64, 3), compression="gzip")
        file.create_dataset("labels", data=arrays["labels"])
    return path


def test_pictures_and_factors_come_in_as_they_are(source: Path, tmp_path: Path) -> None:
    arrays = _arrays()
    import_shapes3d(source, 64, tmp_path / "set")
    dataset = ImageDataset(tmp_path / "set")
    np.testing.assert_array_equal(dataset.images_uint8, arrays["images"])
    found = dataset.factors()
    assert [(f.name, f.kind) for f in found] == [
        ("floor_hue", "circular"),
        ("wall_hue", "circular"),
        ("object_hue", "circular"),
        ("scale", "continuous"),
        ("shape", "categorical"),
        ("orientation", "continuous"),
    ]
    for column, factor in enumerate(found):
        np.testing.assert_array_equal(factor.values, arrays["labels"][:, column])
    assert found[4].categories == ("cube", "cylinder", "sphere", "capsule")
    assert found[4].values.dtype == np.int64 and len(np.unique(found[4].values)) == 4


@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_a_subset_is_read_block_by_block(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(shapes3d, "BLOCK_ROWS", rows)
    seen: list[tuple[int, int]] = []
    dataset = import_shapes3d(
        source, 64, tmp_path / "set", count=5, seed=2, progress=lambda done, total: seen.append((done, total))
    )
    chosen = np.sort(np.random.default_rng(2).choice(COUNT, 5, replace=False))
    arrays = _arrays()
    np.testing.assert_array_equal(dataset.images_uint8, arrays["images"][chosen])
    np.testing.assert_array_equal(dataset.factors()[1].values, arrays["labels"][chosen, 1])
    assert seen[-1] == (5, 5) and len(seen) == len(np.unique(chosen // rows))  # other blocks are not read


def test_smaller_sizes_are_box_averages(source: Path, tmp_path: Path) -> None:
    small = import_shapes3d(source, 16, tmp_path / "small")
    large = import_shapes3d(source, 64, tmp_path / "large")
    averages = (large.batch(slice(None), 16).numpy() + 1) * 127.5  # by PyTorch
    assert np.abs(small.images_uint8.transpose(0, 3, 1, 2) - averages).max() <= 0.5 + 1e-3


def _labels(row: int, column: int, value: float) -> np.ndarray:
    labels = _arrays()["labels"]
    labels[row, column] = value
    return labels


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": None}, "holds no data set `images`, only labels: expected the published 3dshapes.h5"),
        ({"images": None, "labels": None}, "holds no data set `images`, only nothing"),
        ({"labels": None}, "holds no data set `labels`, only images"),
        ({"images": np.zeros((COUNT, 32, 32, 3), np.uint8)}, r"`images` is uint8 \(48, 32, 32, 3\), expected uint8"),
        ({"images": np.zeros((COUNT, 64, 64, 3), np.float32)}, "`images` is float32"),
        ({"images": np.zeros((0, 64, 64, 3), np.uint8)}, r"`images` is uint8 \(0, 64"),
        ({"labels": np.zeros((COUNT, 5))}, r"`labels` is float64 \(48, 5\), expected float64 \(N, 6\)"),
        ({"labels": np.zeros((COUNT, 6), int)}, "`labels` is int64"),
        ({"labels": np.zeros((40, 6))}, "has 48 images and 40 rows of labels"),
        ({"labels": _labels(3, 2, 1.0)}, r"has hues outside \[0, 1\)"),
        ({"labels": _labels(3, 0, -0.1)}, r"has hues outside \[0, 1\)"),
        ({"labels": _labels(3, 4, 4.0)}, "shapes other than 0 to 3"),
        ({"labels": _labels(3, 5, np.inf)}, "is not finite"),
    ],
)  # fmt: skip
def test_other_files_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    source = _write(tmp_path / "other.h5", {**_arrays(), **changed})
    with pytest.raises(UserError, match=message) as caught:
        import_shapes3d(source, 64, tmp_path / "set")
    assert "other.h5" in str(caught.value)
    assert list(tmp_path.iterdir()) == [source]


def test_a_group_is_no_data_set(tmp_path: Path) -> None:
    source = tmp_path / "other.h5"
    with h5py.File(source, "w") as file:
        file.create_group("images")
    with pytest.raises(UserError, match="holds no data set `images`, only images"):
        import_shapes3d(source, 64, tmp_path / "set")


def test_damaged_files(source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    for name, content in (("cut.h5", data[: len(data) // 2]), ("text.h5", b"no HDF5"), ("empty.h5", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read \(.*\): expected the published 3dshapes\.h5\. Fe"):
            import_shapes3d(tmp_path / name, 64, tmp_path / "set")
    with h5py.File(source) as file:
        chunk = file["images"].id.get_chunk_info(3)
    spoilt = bytearray(data)
    spoilt[chunk.byte_offset : chunk.byte_offset + 40] = bytes(40)
    source.write_bytes(spoilt)
    with pytest.raises(UserError, match=r"3dshapes\.h5 cannot be read \(.*\): expected"):
        import_shapes3d(source, 64, tmp_path / "set")
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.partial").exists()


def test_options_are_checked(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`size` must be at most 64, the size of the shapes3d pictures, got 128"):
        import_shapes3d(source, 128, tmp_path / "set")
    with pytest.raises(UserError, match="`count` must be from 1 to 48, all that .* holds, got 49"):
        import_shapes3d(source, 64, tmp_path / "set", count=49)
    with pytest.raises(UserError, match=r"is a folder\. Give the published shapes3d file"):
        import_shapes3d(tmp_path, 64, tmp_path / "set")


def test_without_h5py(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        UserError, match=r"needs h5py, which cannot be imported .*pip install 'hessian-penalty\[hdf5\]'"
    ):
        import_shapes3d(source, 64, tmp_path / "set")


def test_interruption_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_shapes3d(source, 64, tmp_path / "set", progress=interrupt)
    assert list(tmp_path.iterdir()) == [source]
