"""Downloads from a server in this process: resumed where it can be, checked, and clear where it cannot."""

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hessian_penalty.data.download import check_sha256, download, url_name
from hessian_penalty.errors import UserError

DATA = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8).tobytes()


class _Server(ThreadingHTTPServer):
    data, mark, ranges, length, weak = DATA, '"one"', True, True, False
    cut: int | None = None  # bytes of an answer after which the connection ends
    status, offset = 200, 0
    asked: list[str | None]


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status != 200:
            self.send_error(server.status)
            return
        start = int(re.findall(r"\d+", asked)[0]) if asked and server.ranges else 0
        if start and self.headers.get("If-Range") != server.mark:
            start = 0
        if start >= len(server.data):
            self.send_error(416)
            return
        body = server.data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.offset}-{len(DATA) - 1}/{len(DATA)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f"W/{server.mark}" if server.weak else server.mark)
        self.end_headers()
        self.wfile.write(body[: server.cut])

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(server: _Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/sets/pictures.zip?mirror=1"


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_file_with_progress(server: _Server, url: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = download(url, tmp_path / "new" / "sets", lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "sets" / "pictures.zip"
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA)) and len(seen) > 2 and seen == sorted(seen)
    assert _names(path.parent) == ["pictures.zip"]


def test_a_file_that_is_there_is_not_fetched_again(server: _Server, url: str, tmp_path: Path) -> None:
    (tmp_path / "pictures.zip").write_bytes(b"mine")
    assert download(url, tmp_path).read_bytes() == b"mine"
    assert server.asked == []


def _cut_at(server: _Server, url: str, folder: Path, count: int) -> None:
    server.cut = count
    with pytest.raises(UserError, match=r"pictures\.zip.* broke off \(after 1,200,000 of 3,000,000 bytes\)\. The same"):
        download(url, folder)
    assert not (folder / "pictures.zip").exists()
    assert (folder / "pictures.zip.part").read_bytes() == server.data[:count]
    server.cut = None


def test_a_cut_download_goes_on(server: _Server, url: str, tmp_path: Path) -> None:
    _cut_at(server, url, tmp_path, 1_200_000)
    seen: list[tuple[int, int]] = []
    path = download(url, tmp_path, lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == DATA
    assert server.asked == [None, "bytes=1200000-"]
    assert seen[0][0] > 1_200_000 and seen[-1] == (len(DATA), len(DATA))
    assert _names(tmp_path) == ["pictures.zip"]


@pytest.mark.parametrize("change", [{"ranges": False}, {"data": DATA[::-1], "mark": '"two"'}])
def test_without_ranges_or_of_a_changed_file_all_is_fetched(
    server: _Server, url: str, tmp_path: Path, change: dict[str, Any]
) -> None:
    _cut_at(server, url, tmp_path, 1_200_000)
    for name, value in change.items():
        setattr(server, name, value)
    assert download(url, tmp_path).read_bytes() == server.data
    assert _names(tmp_path) == ["pictures.zip"]


def test_a_weak_mark_vouches_for_nothing(server: _Server, url: str, tmp_path: Path) -> None:
    server.weak = True
    _cut_at(server, url, tmp_path, 1_200_000)
    assert download(url, tmp_path).read_bytes() == DATA
    assert server.asked == [None, None]


def test_a_part_with_nothing_left_is_fetched_anew(server: _Server, url: str, tmp_path: Path) -> None:
    (tmp_path / "pictures.zip.part").write_bytes(bytes(len(DATA)))
    (tmp_path / "pictures.zip.version").write_text('"one"')
    assert download(url, tmp_path).read_bytes() == DATA
    assert server.asked == [f"bytes={len(DATA)}-", None]


def test_an_answer_from_elsewhere_is_not_appended(server: _Server, url: str, tmp_path: Path) -> None:
    _cut_at(server, url, tmp_path, 1_200_000)
    server.offset = 7
    with pytest.raises(UserError, match="the server goes on from byte 1200007, not 1200000"):
        download(url, tmp_path)
    assert (tmp_path / "pictures.zip.part").read_bytes() == DATA[:1_200_000]


def test_without_a_length(server: _Server, url: str, tmp_path: Path) -> None:
    server.length = False
    seen: list[tuple[int, int]] = []
    assert download(url, tmp_path, lambda done, total: seen.append((done, total))).read_bytes() == DATA
    assert seen == []


@pytest.mark.parametrize("status", [404, 403, 500, 416])
def test_refusals(server: _Server, url: str, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"cannot be fetched \(the server answers {status}.*\)\. Fetch it elsewhere"):
        download(url, tmp_path)
    assert _names(tmp_path) == []


def test_unreachable(tmp_path: Path) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/a.zip"
        with pytest.raises(
            UserError, match=r"cannot be fetched \(.*refused.*\)\. Fetch it elsewhere, .* give the file"
        ):
            download(url, tmp_path)
    with pytest.raises(UserError, match=r"nonsense/a\.zip cannot be fetched \(nonnumeric port"):
        download("http://127.0.0.1:nonsense/a.zip", tmp_path)


def test_a_broken_connection(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, amount: int) -> bytes:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr("http.client.HTTPResponse.read", broken)
    with pytest.raises(UserError, match=r"broke off \(reset by peer\)\. The same command goes on"):
        download(url, tmp_path)


@pytest.mark.parametrize("address", ["http://example.org", "http://example.org/", "http://example.org/%2e%2e"])
def test_urls_without_a_file(address: str) -> None:
    with pytest.raises(UserError, match=r"names no file\. Give a URL that ends with one"):
        url_name(address)


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(DATA)
    found = hashlib.sha256(DATA).hexdigest()
    check_sha256(path, found)
    check_sha256(path, found.upper())
    with pytest.raises(
        UserError, match=rf"a\.zip has the SHA-256\n  {found}, expected\n  {'0' * 64}\.\nIt is damaged or"
    ):
        check_sha256(path, "0" * 64)
    for wrong in ("", "abc", "g" * 64, "0" * 63):
        with pytest.raises(UserError, match="`sha256` must be 64 hexadecimal digits, got"):
            check_sha256(path, wrong)
    with pytest.raises(UserError, match="is a folder: `sha256` is for a file"):
        check_sha256(tmp_path, found)
    with pytest.raises(UserError, match="does not exist: `sha256` is for a file"):
        check_sha256(tmp_path / "b.zip", found)
