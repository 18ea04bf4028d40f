"""Fetch a published file: resumable, checked, with clear words where the network does not allow it."""

import http.client
import re
import string
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from hessian_penalty.data.image_dataset import sha256
from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path

TIMEOUT_SECONDS = 30.0  # without a byte from the server
CHUNK_BYTES = 2**20


def is_url(source: str) -> bool:
    """Tell whether this is an http or https address rather than a path.

    >>> is_url("https://example.org/pictures.zip"), is_url("pictures.zip")
    (True, False)
    """
    return urlsplit(source).scheme.lower() in ("http", "https")


def url_name(url: str) -> str:
    """The name of the file behind a URL.

    >>> url_name("http://example.org/sets/edges2shoes.tar.gz?mirror=1")
    'edges2shoes.tar.gz'

    Raises:
        UserError: the URL names none.
    """
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    if name in ("", ".."):
        raise UserError(f"{url} names no file. Give a URL that ends with one, as in http://example.org/pictures.zip.")
    return name


def check_sha256(path: Path, expected: str) -> None:
    """Refuse a file whose content is not the expected one.

    Raises:
        UserError: another checksum, `expected` is none, or `path` is no file.
    """
    if len(expected) != 64 or set(expected) - set(string.hexdigits):
        raise UserError(f"`sha256` must be 64 hexadecimal digits, got {expected!r}.")
    if not path.is_file():
        raise UserError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: `sha256` is for a file.")
    found = sha256(path)
    if found != expected.lower():
        raise UserError(
            f"{path} has the SHA-256\n  {found}, expected\n  {expected.lower()}.\n"
            "It is damaged or another version: delete it and fetch it anew, or correct --sha256."
        )


def _unreachable(url: str, reason: object) -> UserError:
    return UserError(
        f"{url} cannot be fetched ({reason}). Fetch it elsewhere, with a browser say, and give the file instead."
    )


def _broke_off(url: str, where: str) -> UserError:
    return UserError(f"{url} broke off ({where}). The same command goes on from there, where the server can.")


def _open(url: str, headers: dict[str, str]) -> Any:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left from there on
            return None
        raise _unreachable(url, f"the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise _unreachable(url, getattr(error, "reason", error)) from None


def _chunks(response: Any, url: str) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK_BYTES):
            yield chunk
    except (http.client.HTTPException, OSError) as error:
        raise _broke_off(url, str(error)) from None


def _start(response: Any) -> int:
    """The byte that the answer begins with."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if response.status == 206 and found else 0


def download(url: str, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch `url` into `folder` under its own name; a file that is there already is left as it is.

    It grows as NAME + ".part", and after an interruption goes on from there where the server can. Beside it NAME +
    ".version" keeps the server's mark of the version (ETag or date): if the file has changed since, all is fetched.

    Args:
        url: http or https.
        folder: made where it is missing.
        progress: told (bytes there, bytes in all), where the server says how many.

    Raises:
        UserError: the server cannot be reached, refuses, or breaks off.
    """
    path = folder / url_name(url)
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part, version = path.with_name(path.name + ".part"), path.with_name(path.name + ".version")
    there = part.stat().st_size if part.exists() and version.exists() else 0
    response = None
    if there:
        response = _open(url, {"Range": f"bytes={there}-", "If-Range": version.read_text()})
    if response is None:
        response = _open(url, {})
    if response is None:
        raise _unreachable(url, "the server answers 416")
    with response:
        start = _start(response)
        if start not in (0, there):
            raise _unreachable(url, f"the server goes on from byte {start}, not {there}")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        marks = [response.headers.get(name, "") for name in ("ETag", "Last-Modified")]
        mark = next(
            (mark for mark in marks if mark and not mark.startswith("W/")), ""
        )  # a weak one vouches for no bytes
        if start == 0:
            part.unlink(missing_ok=True)
            version.unlink(missing_ok=True)
            if mark:
                with atomic_path(version) as temporary:
                    temporary.write_text(mark)
        with part.open("ab") as file:
            for chunk in _chunks(response, url):
                file.write(chunk)
                if progress and total:
                    progress(file.tell(), total)
            got = file.tell()
    if total is not None and got != total:
        raise _broke_off(url, f"after {got:,} of {total:,} bytes")
    part.rename(path)
    version.unlink(missing_ok=True)
    return path
