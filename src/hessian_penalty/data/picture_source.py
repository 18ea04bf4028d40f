"""Where pictures come from: a folder with its subfolders, a zip file or a tar archive, read without unpacking."""

import os
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from hessian_penalty.errors import UserError

SUFFIXES = (
    ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff",
    ".webp",
)  # fmt: skip
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
WANTED = "a folder of pictures, or a .zip, .tar or .tar.gz file"
MAX_FILE_BYTES = 2**30  # one picture's file, unpacked; Pillow has its own limit on pixels

Read = Callable[[], bytes]


@dataclass(frozen=True)
class PictureSource:
    """Pictures that can be read one after the other, whatever they lie in.

    Args:
        names: of the pictures, sorted.
        read_all: (name, how to read it) of each picture, once, in the order that is fastest: a tar archive's own, else
            that of the names. Reading must come before the next step, and raises where the picture's file is bad.
        ignored: suffix → how many files were no pictures.
    """

    names: list[str]
    read_all: Callable[[], Iterator[tuple[str, Read]]]
    ignored: dict[str, int]


def _sort_out(names: Iterable[PurePosixPath]) -> tuple[list[str], dict[str, int]]:
    pictures, ignored = set(), Counter[str]()
    for name in names:
        suffix = name.suffix.lower()
        if "__MACOSX" in name.parts or any(part.startswith(".") for part in name.parts):
            ignored["hidden"] += 1
        elif suffix in SUFFIXES:
            pictures.add(str(name))
        else:
            ignored[suffix or "no suffix"] += 1
    return sorted(pictures), dict(sorted(ignored.items()))


def _check_bytes(count: int) -> None:
    if count > MAX_FILE_BYTES:
        raise ValueError(f"{count} bytes, more than {MAX_FILE_BYTES}")


def _by_name(found: Iterable[PurePosixPath], read: Callable[[str], bytes]) -> PictureSource:
    names, ignored = _sort_out(found)
    return PictureSource(names, lambda: ((name, partial(read, name)) for name in names), ignored)


def _refuse(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be listed: {error.strerror}.")


def _open_folder(source: Path) -> PictureSource:
    def read(name: str) -> bytes:
        path = source / name
        if not path.is_file():  # a pipe would never end
            raise ValueError("a dangling link, or not a regular file")
        _check_bytes(path.stat().st_size)
        return path.read_bytes()

    files = (Path(parent, name) for parent, _, names in os.walk(source, onerror=_refuse) for name in names)
    return _by_name((PurePosixPath(file.relative_to(source).as_posix()) for file in files), read)


def _open_zip(archive: zipfile.ZipFile) -> PictureSource:
    members = {str(PurePosixPath(m.filename)): m for m in archive.infolist() if not m.is_dir()}

    def read(name: str) -> bytes:
        _check_bytes(members[name].file_size)
        return archive.read(members[name])

    return _by_name(map(PurePosixPath, members), read)


def _members(source: Path) -> Iterator[tuple[tarfile.TarInfo, Read]]:
    """The regular files of a tar archive in its order; forward only, since going back means to unpack it anew."""
    with tarfile.open(source, "r:*") as archive:

        def read(member: tarfile.TarInfo) -> bytes:
            _check_bytes(member.size)
            content = archive.extractfile(member)
            assert content is not None  # of a regular file
            return content.read()

        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # bounded memory
            if member.isreg():
                yield member, partial(read, member)
        file = archive.fileobj
        assert file is not None  # while it is open
        while rest := file.read(2**20):  # to the end, where gzip has its checksum
            if rest.strip(b"\0"):  # tarfile takes a damaged header for the end
                raise tarfile.ReadError("a damaged header, or something behind its end")
        if file.tell() % tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")


@contextmanager
def _readable_tar(source: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, LZMAError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{source} is no readable tar archive, or was cut short ({reason}). Fetch it anew, or give {WANTED}."
        ) from None


def _open_tar(source: Path) -> PictureSource:
    with _readable_tar(source):
        offsets = {str(PurePosixPath(member.name)): member.offset for member, _ in _members(source)}
    names, ignored = _sort_out(map(PurePosixPath, offsets))
    pictures = set(names)

    def read_all() -> Iterator[tuple[str, Read]]:
        with _readable_tar(source):
            for member, read in _members(source):
                name = str(PurePosixPath(member.name))
                if name in pictures and offsets[name] == member.offset:  # of several with one name the last counts
                    yield name, read

    return PictureSource(names, read_all, ignored)


def _check_names(source: Path, found: PictureSource) -> None:
    if found.names:
        return
    if not found.ignored:
        raise UserError(f"{source} is empty. Give {WANTED}.")
    others = ", ".join(f"{suffix} ({count})" for suffix, count in found.ignored.items())
    raise UserError(f"{source} holds no pictures, only {others}. Known suffixes: {' '.join(SUFFIXES)}.")


@contextmanager
def _open(source: Path) -> Iterator[PictureSource]:
    if source.is_dir():
        yield _open_folder(source)
    elif not source.exists():
        raise UserError(f"{source} does not exist. Give {WANTED}.")
    elif source.name.lower().endswith(TAR_SUFFIXES):
        yield _open_tar(source)
    else:
        try:
            archive = zipfile.ZipFile(source)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
            raise UserError(
                f"{source} is no folder, and no readable zip file either ({error}). Give {WANTED}."
            ) from None
        with archive:
            yield _open_zip(archive)


@contextmanager
def open_source(source: Path) -> Iterator[PictureSource]:
    """List what is in a folder or an archive, which its name tells apart: one of `TAR_SUFFIXES`, else a zip file.

    Nothing is unpacked to the disk. Links and devices in a tar archive are left aside; listing it unpacks it once from
    start to end, and so finds whether it is whole.

    Raises:
        UserError: `source` is missing, cannot be listed, is no such archive or is damaged, or holds no pictures.
    """
    with _open(source) as found:
        _check_names(source, found)
        yield found
