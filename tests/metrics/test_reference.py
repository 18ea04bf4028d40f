import shutil

import pytest
import torch
from torch import nn

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.reference import reference_features
from hessian_penalty.runs import read_json, write_json


class Counting(nn.Module):
    """Features are the mean colour; counts the images that it sees."""

    name, num_features = "mean colour", 3

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        return images.mean(dim=(2, 3))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_features_are_those_of_the_first_images(cache, small_dataset):
    found = reference_features(small_dataset, Counting(), resolution=16, count=40, batch_size=7)
    assert torch.allclose(found, small_dataset.batch(slice(0, 40)).mean(dim=(2, 3)))
    everything = reference_features(small_dataset, Counting(), resolution=16)
    assert len(everything) == 64
    assert torch.equal(everything, reference_features(small_dataset, Counting(), resolution=16, count=1000))


def test_read_once(cache, small_dataset):
    extractor = Counting()
    first = reference_features(small_dataset, extractor, resolution=16, count=40)
    again = reference_features(small_dataset, extractor, resolution=16, count=40, batch_size=3)
    assert extractor.seen == 40
    assert torch.equal(first, again)


def test_what_changes_the_features_is_read_anew(cache, small_dataset, tmp_path):
    extractor = Counting()
    reference_features(small_dataset, extractor, resolution=16, count=40)
    reference_features(small_dataset, extractor, resolution=8, count=40)
    reference_features(small_dataset, extractor, resolution=16, count=20)
    assert extractor.seen == 100
    extractor.name = "another"
    reference_features(small_dataset, extractor, resolution=16, count=40)
    assert extractor.seen == 140
    shutil.copytree(small_dataset.path, tmp_path / "other")
    path = tmp_path / "other" / "dataset.json"
    write_json(path, read_json(path) | {"sha256": "of others"})
    reference_features(ImageDataset(tmp_path / "other"), extractor, resolution=16, count=40)
    assert extractor.seen == 180


def test_images_without_a_hash_are_read_each_time(cache, small_dataset, tmp_path):
    shutil.copytree(small_dataset.path, tmp_path / "other")
    path = tmp_path / "other" / "dataset.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "sha256"})
    extractor = Counting()
    for _ in range(2):
        reference_features(ImageDataset(tmp_path / "other"), extractor, resolution=16, count=10)
    assert extractor.seen == 20


def test_another_resolution_is_refused(cache, small_dataset):
    with pytest.raises(UserError, match="cannot be shrunk to 12"):
        reference_features(small_dataset, Counting(), resolution=12)
