"""The scripts that make edge pairs out of a data set, and give them its ground truth."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hessian_penalty.cli.main import main
from hessian_penalty.data.image_dataset import ImageDataset

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str, *words: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *map(str, words)], capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.slow
def test_both_halves_of_a_pair_get_the_factors_of_their_picture(
    small_dataset: ImageDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs, imported = tmp_path / "pairs", tmp_path / "imported"
    assert script("make-edge-pairs", small_dataset.path, pairs).returncode == 0
    assert main(["import", str(pairs), "--kind", "pairs", "--size", "16", "--out", str(imported)]) == 0
    capsys.readouterr()
    assert script("name-edge-pairs", small_dataset.path, imported).returncode == 0

    found = ImageDataset(imported)
    domain, x = found.factors()
    assert (domain.name, x.name, x.kind) == ("domain", "x", "continuous")
    assert domain.values.tolist() == [0, 1] * 64
    assert x.values[::2].tolist() == x.values[1::2].tolist() == small_dataset.factors()[0].values.tolist()
    images = found.images_uint8.astype(int)
    photos, column = images[1::2], int(x.values[1])
    assert np.abs(photos[0] - small_dataset.images_uint8[0]).max() < 60  # JPEG and two resizings
    edges = images[0].mean(axis=(0, 2))  # dark where there are edges: around the square
    assert abs(float(((255 - edges) * np.arange(16)).sum() / (255 - edges).sum()) - (column + 1.5)) < 1


def test_ground_truth_of_another_data_set_is_refused(small_dataset: ImageDataset) -> None:
    refused = script("name-edge-pairs", small_dataset.path, small_dataset.path)
    assert refused.returncode == 1
    assert "has 64 pictures, not two for each of the 64" in refused.stderr
