"""Pairs: each half on its own row, edges first, and the domain tells which is which."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.data.pairs_import import import_pairs
from hessian_penalty.errors import UserError


def _photo(number: int) -> Image.Image:
    """A shoe-like blob of a colour of its own on white, 256 pixels."""
    y, x = np.indices((256, 256))
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[((x - 128) / 90) ** 2 + ((y - 150) / (40 + 5 * number)) ** 2 < 1] = (200, 30 * number, 90)
    return Image.fromarray(pixels)


def _edges(photo: Image.Image) -> Image.Image:
    outline = photo.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda value: 0 if value > 20 else 255)
    return outline.crop((2, 2, 254, 254)).resize((256, 256)).convert("RGB")


def _pair(number: int) -> Image.Image:
    pair = Image.new("RGB", (512, 256))
    pair.paste(_edges(_photo(number)), (0, 0))
    pair.paste(_photo(number), (256, 0))
    return pair


NAMES = {"val/1_AB.jpg": 3, "train/2_AB.jpg": 1, "train/10_AB.jpg": 2, "train/1_AB.jpg": 0}  # name → number
SORTED = (2, 0, 1, 3)  # by name: train/10_, train/1_, train/2_, val/1_


@pytest.fixture(params=["folder", "tar.gz"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "edges2shoes"
    for name, number in NAMES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _pair(number).save(folder / name, quality=100, subsampling=0)
    if request.param == "folder":
        return folder
    archive = tmp_path / "edges2shoes.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name in NAMES:
            file.add(folder / name, f"edges2shoes/{name}")
    return archive


def _small(picture: Image.Image) -> NDArray[np.int64]:
    return np.asarray(picture.resize((32, 32), Image.Resampling.LANCZOS)).astype(np.int64)


def test_both_halves_come_in_edges_first(source: Path, tmp_path: Path) -> None:
    dataset = import_pairs(source, 32, tmp_path / "set")
    assert dataset.images_uint8.shape == (8, 32, 32, 3)
    for row, number in enumerate(SORTED):
        edges, photo = dataset.images_uint8[2 * row : 2 * row + 2].astype(np.int64)
        assert np.abs(edges - _small(_edges(_photo(number)))).mean() < 1  # JPEG
        assert np.abs(photo - _small(_photo(number))).mean() < 1
        assert np.abs(photo - edges).mean() > 20
        assert photo[18, 16, 1] == pytest.approx(30 * number, abs=8)
    (domain,) = ImageDataset(tmp_path / "set").factors()
    assert (domain.name, domain.kind, domain.categories) == ("domain", "categorical", ("edges", "photo"))
    assert domain.values.tolist() == [0, 1] * 4
    assert dataset.metadata["kind"] == "pairs"
    summary = dataset.metadata["summary"]
    assert (summary["pictures"], summary["cropped"], summary["upscaled"]) == (4, 0, 0)
    assert (summary["smallest"], summary["largest"]) == ([512, 256], [512, 256])


def test_halves_do_not_bleed_into_one_another(tmp_path: Path) -> None:
    pair = Image.new("RGB", (8, 4), "black")
    pair.paste("white", (4, 0, 8, 4))
    (tmp_path / "pairs").mkdir()
    pair.save(tmp_path / "pairs" / "a.png")
    dataset = import_pairs(tmp_path / "pairs", 8, tmp_path / "set")
    assert [np.unique(image).tolist() for image in dataset.images_uint8] == [[0], [255]]
    assert dataset.metadata["summary"]["upscaled"] == 1


@pytest.mark.parametrize("shape", [(512, 300), (256, 256), (511, 256), (256, 512)])
def test_other_shapes_count_as_unreadable(tmp_path: Path, shape: tuple[int, int]) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number in range(2):
        _pair(number).save(folder / f"{2 * number}.png")
    Image.new("RGB", shape, "red").save(folder / "1.png")
    expected = rf"1 of the 3 .*\n  1\.png: {shape[0]}x{shape[1]} pixels, expected twice as wide as high"
    with pytest.raises(UserError, match=expected):
        import_pairs(folder, 8, tmp_path / "set")
    assert not (tmp_path / "set").exists() and not (tmp_path / "set.partial").exists()
    dataset = import_pairs(folder, 8, tmp_path / "set", skip_unreadable=True)
    (folder / "1.png").unlink()
    whole = import_pairs(folder, 8, tmp_path / "whole")
    np.testing.assert_array_equal(dataset.images_uint8, whole.images_uint8)
    assert dataset.factors()[0].values.tolist() == [0, 1, 0, 1]


def test_progress_counts_pairs(tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    _pair(0).save(tmp_path / "pairs" / "a.png")
    seen: list[tuple[int, int]] = []
    import_pairs(tmp_path / "pairs", 8, tmp_path / "set", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 1)]


def test_transparent_and_damaged_pairs(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    pair = _pair(0).convert("RGBA")
    pair.paste((0, 0, 0, 0), (256, 0, 512, 256))
    pair.save(folder / "a.png")
    buffer = io.BytesIO()
    _pair(1).save(buffer, "JPEG")
    (folder / "b.jpg").write_bytes(buffer.getvalue()[:2000])
    dataset = import_pairs(folder, 8, tmp_path / "set", skip_unreadable=True)
    assert np.unique(dataset.images_uint8[1]).tolist() == [255]
    summary = dataset.metadata["summary"]
    assert (summary["flattened"], summary["unreadable_count"]) == (1, 1)
