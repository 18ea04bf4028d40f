"""Importing: any picture comes in as it looks, every bad input is named, nothing is left half-made."""

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hessian_penalty.data import picture_source
from hessian_penalty.data.folder_import import import_images
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.data.partial_folder import claim_partial
from hessian_penalty.errors import UserError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def _noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _import(source: Path, size: int = 8, **options: Any) -> ImageDataset:
    return import_images(source, size, source.parent / "set", **options)


def _only(source: Path, size: int = 8) -> np.ndarray:
    dataset = _import(source, size)
    assert dataset.images_uint8.shape == (1, size, size, 3)
    return np.array(dataset.images_uint8[0])


def _near(pixels: np.ndarray, colour: tuple[int, int, int], tolerance: int = 2) -> bool:
    return bool((np.abs(pixels.astype(int) - colour) <= tolerance).all())


def test_square_of_the_right_size_is_unchanged(source: Path) -> None:
    _noise(8, 8).save(source / "a.png")
    np.testing.assert_array_equal(_only(source), np.asarray(_noise(8, 8)))


@pytest.mark.parametrize("wide", [True, False])
def test_middle_square_is_kept(source: Path, wide: bool) -> None:
    pixels = np.zeros((8, 20, 3), np.uint8)
    pixels[:] = RED
    pixels[:, 6:14] = np.asarray(_noise(8, 8))
    Image.fromarray(pixels if wide else pixels.transpose(1, 0, 2)).save(source / "a.png")
    middle = np.asarray(_noise(8, 8))
    np.testing.assert_array_equal(_only(source), middle if wide else middle.transpose(1, 0, 2))


def test_shrinking_averages_and_enlarging_is_counted(source: Path) -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 200).astype(np.uint8)
    Image.fromarray(checks).save(source / "a.png")
    Image.new("RGB", (4, 4), GREEN).save(source / "b.png")
    dataset = _import(source)
    assert _near(dataset.images_uint8[0], (100, 100, 100), tolerance=6)
    assert _near(dataset.images_uint8[1], GREEN)
    assert dataset.metadata["summary"]["upscaled"] == 1


@pytest.mark.parametrize(
    ("mode", "value", "suffix", "expected"),
    [
        ("1", 1, "png", WHITE),
        ("L", 90, "png", (90, 90, 90)),
        ("LA", (90, 0), "png", WHITE),
        ("RGB", RED, "bmp", RED),
        ("RGBA", (*BLUE, 255), "png", BLUE),
        ("RGBA", (*BLUE, 0), "webp", WHITE),
        ("RGBA", (255, 0, 0, 128), "png", (255, 127, 127)),
        ("CMYK", (255, 0, 0, 0), "tif", (0, 255, 255)),
        ("CMYK", (255, 0, 0, 0), "jpg", (0, 255, 255)),
        ("YCbCr", (76, 85, 255), "jpg", (254, 0, 0)),
        ("I;16", 90 * 257, "png", (90, 90, 90)),
        ("I;16", 90 * 257, "tif", (90, 90, 90)),
        ("I;16", 90 * 257, "pgm", (90, 90, 90)),
        ("I;16B", 90 * 257, "tif", (90, 90, 90)),
    ],
)
def test_every_mode_comes_in_as_it_looks(
    source: Path, mode: str, value: Any, suffix: str, expected: tuple[int, int, int]
) -> None:
    Image.new(mode, (8, 8), value).save(source / f"a.{suffix}")
    assert _near(_only(source), expected, tolerance=3)


def test_palette_with_and_without_transparency(source: Path) -> None:
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([*RED, *GREEN])
    picture.save(source / "a.gif")
    picture.save(source / "b.png", transparency=1)
    picture.save(source / "c.png", transparency=b"\xff\x80")
    dataset = _import(source)
    for pixels, colour in zip(dataset.images_uint8, (GREEN, WHITE, (127, 255, 127)), strict=True):
        assert _near(pixels, colour)
    assert dataset.metadata["summary"]["flattened"] == 2
    assert dataset.metadata["summary"]["modes"] == {"P": 3}


def test_exif_rotation_is_undone(source: Path) -> None:
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4], upright[4:, :4], upright[4:, 4:] = RED, GREEN, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn it clockwise to show it
    Image.fromarray(np.rot90(upright).copy()).save(source / "a.png", exif=exif)
    np.testing.assert_array_equal(_only(source), upright)
    assert ImageDataset(source.parent / "set").metadata["summary"]["rotated"] == 1


def test_damaged_exif_does_not_spoil_a_picture(source: Path) -> None:
    Image.new("RGB", (8, 8), BLUE).save(source / "a.png", exif=b"Exif\0\0nonsense")
    assert _near(_only(source), BLUE)


def test_order_is_that_of_the_names_in_all_subfolders(source: Path) -> None:
    (source / "b").mkdir()
    for name, colour in (("c.png", BLUE), ("b/z.PNG", GREEN), ("a.jpeg", RED)):
        Image.new("RGB", (8, 8), colour).save(source / name)
    dataset = _import(source)
    for pixels, colour in zip(dataset.images_uint8, (RED, GREEN, BLUE), strict=True):
        assert _near(pixels, colour)


def _zip_of(source: Path) -> Path:
    archive = source.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(source.rglob("*"), reverse=True):
            file.write(path, Path(source.name) / path.relative_to(source))
    return archive


def _mixed(source: Path) -> None:
    (source / "deep" / "deeper").mkdir(parents=True)
    (source / "__MACOSX").mkdir()
    _noise(20, 10, 1).save(source / "a.png")
    _noise(4, 6, 2).convert("L").save(source / "deep" / "b.jpg")
    glassy = _noise(9, 9, 3)
    glassy.putalpha(200)
    glassy.save(source / "deep" / "deeper" / "c.webp", lossless=True)
    for name in ("notes.txt", ".DS_Store", "__MACOSX/._a.png", "README", "deep/clip.mp4"):
        (source / name).write_bytes(b"x")


def test_summary_says_what_was_found_and_done(source: Path) -> None:
    _mixed(source)
    assert _import(source).metadata["summary"] == {
        "pictures": 3,
        "modes": {"L": 1, "RGB": 1, "RGBA": 1},
        "smallest": [6, 4],
        "largest": [10, 20],
        "rotated": 0,
        "flattened": 1,
        "cropped": 2,
        "upscaled": 1,
        "unreadable_count": 0,
        "unreadable": {},
        "ignored": {".mp4": 1, ".txt": 1, "hidden": 2, "no suffix": 1},
    }


def test_zip_equals_folder(source: Path, tmp_path: Path) -> None:
    _mixed(source)
    archive = _zip_of(source)
    from_folder = import_images(source, 8, tmp_path / "one")
    from_zip = import_images(archive, 8, tmp_path / "other")
    np.testing.assert_array_equal(from_folder.images_uint8, from_zip.images_uint8)
    assert from_folder.metadata["summary"] == from_zip.metadata["summary"]
    assert from_folder.metadata["sha256"] == from_zip.metadata["sha256"]


def test_source_is_not_touched(source: Path) -> None:
    _mixed(source)

    def state() -> dict[str, tuple[int, bytes]]:
        files = [path for path in sorted(source.rglob("*")) if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}

    before = state()
    _import(source)
    assert state() == before


def test_progress_counts_every_picture(source: Path) -> None:
    _mixed(source)
    seen: list[tuple[int, int]] = []
    _import(source, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def _encoded(kind: str, size: int = 64) -> bytes:
    buffer = io.BytesIO()
    _noise(size, size).save(buffer, kind)
    return buffer.getvalue()


BAD = {
    "bomb.png": _encoded("PNG", 256),  # over the limit that the test sets
    "cut.jpg": _cut(_encoded("JPEG")),
    "cut.png": _cut(_encoded("PNG")),
    "empty.png": b"",
    "float.tif": b"",
    "other.png": _encoded("PCX"),
    "page.jpg": b"<html>404</html>",
    "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
    "text.png": b"not a picture",
}


def _spoil(source: Path) -> None:
    for name, data in BAD.items():
        (source / name).write_bytes(data)
    Image.new("F", (8, 8), 0.5).save(source / "float.tif")
    Image.new("RGB", (8, 8), RED).save(source / "good.png")
    Image.new("RGB", (120, 120), BLUE).save(source / "x.png")  # Pillow warns of so many pixels under the limit below


@pytest.fixture
def _low_pixel_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100 * 100)


@pytest.mark.usefixtures("_low_pixel_limit")
@pytest.mark.parametrize("zipped", [False, True])
def test_unreadable_pictures_are_all_named_and_nothing_is_made(source: Path, zipped: bool) -> None:
    _spoil(source)
    with pytest.raises(UserError, match=r"9 of the 11 pictures in .* cannot be read") as caught:
        _import(_zip_of(source) if zipped else source)
    lines = str(caught.value).splitlines()
    for name, line in zip(BAD, lines[1:-1], strict=True):
        assert name in line
    assert "decompression bomb" in lines[1]
    assert lines[-1] == "Mend or remove them, or pass --skip-unreadable to go on without them."
    assert "0x" not in str(caught.value)  # no addresses of objects
    assert not any(path.name.startswith("set") for path in source.parent.iterdir())


@pytest.mark.usefixtures("_low_pixel_limit")
def test_unreadable_pictures_can_be_skipped(source: Path) -> None:
    _spoil(source)
    dataset = _import(source, skip_unreadable=True)
    assert len(dataset) == 2
    assert _near(dataset.images_uint8[0], RED) and _near(dataset.images_uint8[1], BLUE)
    summary = dataset.metadata["summary"]
    assert (summary["pictures"], summary["unreadable_count"], list(summary["unreadable"])) == (2, 9, list(BAD))
    assert sorted(path.name for path in dataset.path.iterdir()) == ["dataset.json", "images.npy"]


def test_first_ten_are_named_and_the_rest_counted(source: Path) -> None:
    for number in range(13):
        (source / f"{number:02d}.png").touch()
    with pytest.raises(UserError, match=r"13 of the 13 [^$]*09\.png[^$]*and 3 more\nNothing would be left") as caught:
        _import(source, skip_unreadable=True)
    assert "10.png" not in str(caught.value)


def test_damaged_and_locked_members_of_a_zip(source: Path) -> None:
    archive = source.parent / "pictures.zip"
    picture = _encoded("PNG", 8)
    with zipfile.ZipFile(archive, "w") as file:  # stored, not deflated
        for name in ("damaged.png", "good.png", "locked.png"):
            file.writestr(name, picture)
        locked = file.getinfo("locked.png")
        locked.flag_bits |= 1
        start = file.getinfo("damaged.png").header_offset
    data = bytearray(archive.read_bytes())
    data[start + 30 + len("damaged.png") + len(picture) // 2] ^= 0xFF
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"2 of the 3 pictures .*\n  damaged\.png: Bad CRC.*\n  locked\.png: .*"):
        _import(archive)


def test_huge_files_are_not_read(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_source, "MAX_FILE_BYTES", 100)
    _noise(8, 8).save(source / "a.png")
    for place in (source, _zip_of(source)):
        with pytest.raises(UserError, match=r"a\.png: .* more than 100"):
            _import(place)


def test_dangling_link(source: Path) -> None:
    (source / "a.png").symlink_to(source / "nowhere.png")
    with pytest.raises(UserError, match=r"a\.png: a dangling link, or not a regular file"):
        _import(source)


def test_no_source(source: Path) -> None:
    with pytest.raises(UserError, match=r"missing does not exist\. Give a folder of pictures, or a \.zip, \.tar or"):
        _import(source / "missing")


def test_empty_folder(source: Path) -> None:
    with pytest.raises(UserError, match=r"pictures is empty. Give a folder"):
        _import(source)


def test_no_pictures(source: Path) -> None:
    for name in ("a.txt", "b.txt", "c.heic", ".hidden.png"):
        (source / name).touch()
    with pytest.raises(UserError, match=r"no pictures, only \.heic \(1\), \.txt \(2\), hidden \(1\)\. Known.*\.png"):
        _import(source)


@pytest.mark.parametrize("data", [b"", b"plain text", b"PK\x03\x04 cut short"])
def test_not_a_zip(source: Path, data: bytes) -> None:
    (source / "a.zip").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.zip is no folder, and no readable zip file either"):
        _import(source / "a.zip")


def test_size_and_out_are_checked(source: Path) -> None:
    _noise(8, 8).save(source / "a.png")
    with pytest.raises(UserError, match="`size` must be a power of two from 4 to 1024, got 100"):
        _import(source, size=100)
    with pytest.raises(UserError, match=r"pictures holds the pictures themselves. Choose another --out"):
        import_images(source, 8, source)
    with pytest.raises(UserError, match=r"exists already. Choose another --out, or move it away"):
        import_images(source, 8, source.parent)


def test_full_disk(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _noise(8, 8).save(source / "a.png")
    usage = shutil.disk_usage(source)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(UserError, match="cannot be reserved"):
        _import(source)
    assert list(source.parent.iterdir()) == [source]


def test_interruption_leaves_nothing_and_a_kill_is_no_obstacle(source: Path) -> None:
    _mixed(source)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _import(source, progress=interrupt)
    assert list(source.parent.iterdir()) == [source]

    folder = claim_partial(
        source.parent / "set", {"name": "import", "kind": "pictures", "source": str(source), "size": 8}
    )  # what a kill leaves
    (folder / "images.npy").write_bytes(b"half")
    (folder / "kept.npy").write_bytes(b"half")
    assert sorted(path.name for path in _import(source).path.iterdir()) == ["dataset.json", "images.npy"]


def test_import_does_not_disturb_an_interrupted_render(source: Path) -> None:
    _noise(8, 8).save(source / "a.png")
    folder = claim_partial(source.parent / "set", {"name": "clevr-simple", "count": 5})
    with pytest.raises(
        UserError, match=r"holds an interrupted data set with other settings .*name 'clevr-simple', now"
    ):
        _import(source)
    assert (folder / "recipe.json").is_file()
