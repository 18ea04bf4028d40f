"""Tar archives: the same data set as from the folder, nothing unpacked to the disk, no damage passes unseen."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hessian_penalty.data import picture_source
from hessian_penalty.data.folder_import import import_images
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.errors import UserError


def _png(seed: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size + seed, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _tar(path: Path, members: list[tuple[str, bytes]], mode: Any = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


PICTURES = [("set/c.png", _png(2)), ("set/a.png", _png(0)), ("./set/deep/b.png", _png(1)), ("set/._a.png", b"x")]


def _import(source: Path, **options: Any) -> ImageDataset:
    return import_images(source, 8, source.parent / "out", **options)


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("A.TGZ", "w:gz"), ("b.tar.gz", "w")])
def test_tar_equals_folder(tmp_path: Path, name: str, mode: str) -> None:
    for member, data in PICTURES:
        path = tmp_path / "folder" / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    from_folder = import_images(tmp_path / "folder", 8, tmp_path / "one")
    from_tar = _import(_tar(tmp_path / name, PICTURES, mode))
    np.testing.assert_array_equal(from_folder.images_uint8, from_tar.images_uint8)
    assert from_folder.metadata["summary"] == from_tar.metadata["summary"]
    assert from_tar.metadata["summary"]["ignored"] == {"hidden": 1}


def test_unreadable_members_leave_no_gap(tmp_path: Path) -> None:
    members = [("z.png", b"no picture"), *PICTURES, ("set/b.jpg", b"")]
    source = _tar(tmp_path / "a.tar.gz", members, "w:gz")
    with pytest.raises(
        UserError, match=r"2 of the 5 pictures in .*a\.tar\.gz .*\n  set/b\.jpg: .*\n  z\.png: not a kn"
    ):
        _import(source)
    dataset = _import(source, skip_unreadable=True)
    np.testing.assert_array_equal(dataset.images_uint8[0], np.asarray(Image.open(io.BytesIO(_png(0)))))
    assert len(dataset) == 3
    whole = import_images(_tar(tmp_path / "b.tar", PICTURES), 8, tmp_path / "whole")
    np.testing.assert_array_equal(dataset.images_uint8, whole.images_uint8)


def test_of_several_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    dataset = _import(_tar(tmp_path / "a.tar", [("a.png", _png(1)), ("b.png", _png(0)), ("./a.png", _png(0))]))
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset.images_uint8[0], dataset.images_uint8[1])


def test_links_and_devices_are_left_aside_and_nothing_is_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "a.tar"
    with tarfile.open(source, "w") as archive:
        for name, kind in (
            ("link.png", tarfile.SYMTYPE),
            ("hard.png", tarfile.LNKTYPE),
            ("pipe.png", tarfile.FIFOTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/hostname"
            archive.addfile(member)
        for name in ("../../outside.png", "/tmp/inside.png"):
            member = tarfile.TarInfo(name)
            member.size = len(_png(0))
            archive.addfile(member, io.BytesIO(_png(0)))
    before = set(tmp_path.parent.iterdir())
    summary = import_images(source, 8, tmp_path / "set").metadata["summary"]
    assert (summary["pictures"], summary["ignored"]) == (1, {"hidden": 1})
    assert set(tmp_path.parent.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "set"]


def test_huge_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _tar(tmp_path / "a.tar", [("a.png", _png(0)), ("b.png", bytes(5000))])
    monkeypatch.setattr(picture_source, "MAX_FILE_BYTES", 4000)
    with pytest.raises(UserError, match=r"1 of the 2 pictures .*\n  b\.png: 5000 bytes, more than 4000"):
        _import(source)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("data", [b"", b"plain text " * 100, gzip.compress(b"no tar inside " * 100)])
def test_not_an_archive(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=rf"{name} is no readable tar archive, or was cut short \(.*\)\. Fetch it anew"):
        _import(tmp_path / name)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.97, 0.999])
def test_cut_archives_are_noticed_wherever_the_cut_is(tmp_path: Path, share: float) -> None:
    source = _tar(tmp_path / "a.tar.gz", [(f"{number}.png", _png(number, 16)) for number in range(10)], "w:gz")
    data = source.read_bytes()
    source.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UserError, match=r"a\.tar\.gz is no readable tar archive, or was cut short"):
        _import(source)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_damage_is_noticed(tmp_path: Path) -> None:
    zipped = _tar(tmp_path / "a.tar.gz", PICTURES, "w:gz")
    data = bytearray(zipped.read_bytes())
    data[len(data) - 6] ^= 0xFF  # in the checksum
    zipped.write_bytes(data)
    with pytest.raises(UserError, match=r"cut short \(CRC check failed"):
        _import(zipped)
    plain = _tar(tmp_path / "b.tar", PICTURES)
    data = bytearray(plain.read_bytes())
    with tarfile.open(plain) as archive:
        header = archive.getmembers()[2].offset
    plain.write_bytes(data[: header + 100])
    with pytest.raises(UserError, match=r"cut short \(unexpected end of data"):
        _import(plain)
    data[header + 150] ^= 0x0F  # in the header's checksum
    plain.write_bytes(data)
    with pytest.raises(UserError, match=r"cut short \(a damaged header, or something behind its end"):
        _import(plain)


def test_empty_tar(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.tar is empty\. Give a folder"):
        _import(_tar(tmp_path / "a.tar", []))


def test_interruption_of_a_tar_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    source = _tar(tmp_path / "a.tar.gz", PICTURES, "w:gz")
    with pytest.raises(KeyboardInterrupt):
        _import(source, progress=interrupt)
    assert list(tmp_path.iterdir()) == [source]
