import numpy as np
import pytest

from hessian_penalty.data.atlas import pack_atlas, unpack_atlas
from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.errors import UserError


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
    np.save(folder / "images.npy", images)
    factors = [
        Factor("x", "continuous", np.linspace(0, 1, 70)),
        Factor("shape", "categorical", np.arange(70) % 3, ("a", "b", "c")),
    ]
    ImageDataset.finish(folder, factors, name="noise", seed=5)
    return ImageDataset(folder)


def test_round_trip_is_lossless(dataset, tmp_path):
    pack_atlas(dataset, tmp_path / "atlas", count=67, resolution=8)
    unpacked = unpack_atlas(tmp_path / "atlas", tmp_path / "out")
    assert np.array_equal(unpacked.images_uint8, dataset.images_uint8[:67])
    x, shape = unpacked.factors()
    assert np.allclose(x.values, np.linspace(0, 1, 70)[:67])
    assert shape.categories == ("a", "b", "c")
    assert unpacked.metadata["source"] == {"size": 8, "name": "noise", "seed": 5}


def test_shrinks_by_box_averages(dataset, tmp_path):
    pack_atlas(dataset, tmp_path / "atlas", count=3, resolution=4)
    unpacked = unpack_atlas(tmp_path / "atlas", tmp_path / "out")
    means = dataset.images_uint8[:3].reshape(3, 4, 2, 4, 2, 3).astype(float).mean(axis=(2, 4))
    assert np.abs(unpacked.images_uint8 - means).max() <= 0.5 + 1e-3


def test_unpacking_twice_keeps_the_first(dataset, tmp_path):
    pack_atlas(dataset, tmp_path / "atlas", count=3, resolution=8)
    unpack_atlas(tmp_path / "atlas", tmp_path / "out")
    before = (tmp_path / "out" / "dataset.json").stat().st_mtime_ns
    unpack_atlas(tmp_path / "atlas", tmp_path / "out")
    assert (tmp_path / "out" / "dataset.json").stat().st_mtime_ns == before


def test_more_images_than_there_are(dataset, tmp_path):
    with pytest.raises(UserError, match="has 70 images; 71 cannot be packed"):
        pack_atlas(dataset, tmp_path / "atlas", count=71, resolution=8)
