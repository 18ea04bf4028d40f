"""A data set on disk: what was written comes back, and damage is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hessian_penalty.data.image_dataset import Factor, ImageDataset, sha256
from hessian_penalty.errors import UserError

SHAPE = (5, 8, 8, 3)


def _factors(count: int) -> list[Factor]:
    return [
        Factor("x", "continuous", np.linspace(-1, 1, count)),
        Factor("shape", "categorical", np.arange(count) % 2, ("cube", "sphere")),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8))
    ImageDataset.finish(tmp_path, _factors(SHAPE[0]), name="toy", seed=3)
    return tmp_path


def test_everything_written_comes_back(folder: Path) -> None:
    dataset = ImageDataset(folder)
    assert (len(dataset), dataset.resolution, dataset.image_channels) == (5, 8, 3)
    assert dataset.metadata["name"] == "toy" and dataset.metadata["seed"] == 3
    assert dataset.metadata["sha256"] == sha256(folder / "images.npy")
    for found, written in zip(dataset.factors(), _factors(5), strict=True):
        assert (found.name, found.kind, found.categories) == (written.name, written.kind, written.categories)
        np.testing.assert_array_equal(found.values, written.values)
    assert isinstance(dataset.images_uint8, np.memmap) and not dataset.images_uint8.flags.writeable


def test_batch_spans_minus_one_to_one_channels_first(folder: Path) -> None:
    images_uint8 = np.zeros((2, 4, 4, 3), np.uint8)
    images_uint8[1, :, :, 2] = 255
    np.save(folder / "images.npy", images_uint8)
    ImageDataset.finish(folder, [])
    images = ImageDataset(folder).batch([1, 0])
    assert images.shape == (2, 3, 4, 4) and images.dtype == torch.float32
    assert images[0, 2].eq(1).all() and images[0, :2].eq(-1).all() and images[1].eq(-1).all()


def test_batch_does_not_depend_on_its_neighbours(folder: Path) -> None:
    dataset = ImageDataset(folder)
    together = dataset.batch(np.array([3, 1, 4]), resolution=4)
    assert torch.equal(together, torch.cat([dataset.batch([i], resolution=4) for i in (3, 1, 4)]))


def test_lower_resolutions_are_box_averages(folder: Path) -> None:
    dataset = ImageDataset(folder)
    blocks = dataset.images_uint8.reshape(5, 4, 2, 4, 2, 3).astype(np.float64).mean((2, 4)) / 127.5 - 1
    expected = torch.from_numpy(blocks.transpose(0, 3, 1, 2))
    torch.testing.assert_close(dataset.batch(range(5), resolution=4).double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("resolution", [3, 16, 0, -4])
def test_other_resolutions_are_refused(folder: Path, resolution: int) -> None:
    with pytest.raises(UserError, match=f"8-pixel images, which cannot be shrunk to {resolution} by a power"):
        ImageDataset(folder).batch([0], resolution=resolution)


def test_folder_that_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not an image data set: expected .*dataset\.json.*hessian-penalty render"):
        ImageDataset(tmp_path / "nothing")


def _cut(path: Path, keep: int) -> None:
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize("keep", [0, 5, 60, 300])
def test_images_cut_short(folder: Path, keep: int) -> None:
    _cut(folder / "images.npy", keep)
    with pytest.raises(UserError, match=r"images\.npy cannot be read .*make the data set anew"):
        ImageDataset(folder)


def test_images_missing(folder: Path) -> None:
    (folder / "images.npy").unlink()
    with pytest.raises(UserError, match=r"images\.npy cannot be read"):
        ImageDataset(folder)


@pytest.mark.parametrize("images", [np.zeros((4, 8, 8, 3), np.uint8), np.zeros(SHAPE, np.float32)])
def test_images_of_another_data_set(folder: Path, images: np.ndarray[Any, Any]) -> None:
    np.save(folder / "images.npy", images)
    with pytest.raises(UserError, match=r"images\.npy holds .* expected uint8 .*\[5, 8, 8, 3\]"):
        ImageDataset(folder)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 99}'])
def test_metadata_of_another_format(folder: Path, text: str) -> None:
    (folder / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=r'dataset\.json must say "format": 1, got'):
        ImageDataset(folder)


@pytest.mark.parametrize("keep", [0, 10, 100, 300])
def test_factors_cut_short(folder: Path, keep: int) -> None:
    _cut(folder / "factors.npz", keep)
    with pytest.raises(UserError, match=r"factors\.npz cannot be read .*make the data set anew"):
        ImageDataset(folder).factors()


def test_factors_with_flipped_bytes(folder: Path) -> None:
    data = bytearray((folder / "factors.npz").read_bytes())
    for position in range(60, 120):
        data[position] ^= 0xFF
    (folder / "factors.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"factors\.npz cannot be read"):
        ImageDataset(folder).factors()


def test_factors_missing_or_of_other_length(folder: Path) -> None:
    metadata = json.loads((folder / "dataset.json").read_text())
    (folder / "factors.npz").unlink()
    with pytest.raises(UserError, match=r"factors\.npz cannot be read"):
        ImageDataset(folder).factors()
    ImageDataset.finish(folder, _factors(4))
    with pytest.raises(UserError, match=r"does not have one value per image \(5\)"):
        ImageDataset(folder).factors()
    metadata["factors"] = [{"name": "unheard-of", "kind": "continuous", "categories": []}]
    (folder / "dataset.json").write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"factors\.npz cannot be read .*unheard-of"):
        ImageDataset(folder).factors()


def test_no_factors_is_no_error(folder: Path) -> None:
    (folder / "factors.npz").unlink()
    ImageDataset.finish(folder, [])
    assert ImageDataset(folder).factors() == []
