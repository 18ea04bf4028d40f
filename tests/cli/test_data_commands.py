"""`render` and `import` at the command line: what they print, and that a mistake gets one clear message."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hessian_penalty.cli.main import main
from hessian_penalty.data import render
from hessian_penalty.data.clevr import FAMILIES
from hessian_penalty.data.image_dataset import ImageDataset

needs_mitsuba = pytest.mark.skipif(
    importlib.util.find_spec("mitsuba") is None, reason="the render extra is not installed"
)


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as leave:  # how the option parser refuses
        status = int(leave.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


@pytest.mark.parametrize("command", ["render", "import"])
def test_help_teaches(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, _ = _run(capsys, command, "--help")
    text = " ".join(out.replace("│", " ").split())
    assert status == 0
    assert f"Example: hessian-penalty {command}" in text
    for flag in ("--size", "--out", "power of two from 4 to 1024", "Default: datasets/"):
        assert flag in text
    imports = ("--skip-unreadable", "SOURCE", "--kind", "--sha256", "--count", "--seed", "edges2shoes.tar.gz", "domain")
    expected = ("--count", "--seed", "--workers", *FAMILIES) if command == "render" else imports
    for word in expected:
        assert word in text


@needs_mitsuba
def test_render_says_where_how_fast_and_what_next(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = _run(capsys, "render", "clevr-1fov", "--count", 3, "--size", 8, "--workers", 1)
    assert (status, err) == (0, "")
    assert "datasets/clevr-1fov: 3 pictures of 8x8, " in out and "pictures/s)" in out
    assert out.endswith(
        "Next: hessian-penalty train clevr-1fov-tiny --data datasets/clevr-1fov --out runs/clevr-1fov\n"
    )
    assert len(ImageDataset("datasets/clevr-1fov")) == 3


@needs_mitsuba
def test_render_goes_on_and_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "chunk_images", lambda size: 2)
    draw, calls = render.render_scene, []

    def interrupted(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(render, "render_scene", interrupted)
    arguments = ("render", "clevr-simple", "--count", 5, "--size", 8, "--out", tmp_path / "set", "--workers", 1)
    status, out, err = _run(capsys, *arguments)
    assert status == 130
    assert "kept in" in out and "the same command goes on from there" in out and "interrupted" in err
    status, out, _ = _run(capsys, *arguments)
    assert status == 0
    assert f"Going on in {tmp_path / 'set.partial'}, where 2 of 5 pictures are done." in out


@needs_mitsuba
@pytest.mark.skipif(os.name == "nt", reason="signals to a process group are POSIX")
@pytest.mark.parametrize("killed", [False, True])
def test_workers_end_with_the_command(tmp_path: Path, killed: bool) -> None:
    out = tmp_path / "set"
    command = ["render", "clevr-simple", "--count", "4", "--size", "1024", "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "hessian_penalty.cli.main", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (out.with_name("set.partial") / "done.npy").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        time.sleep(3)  # workers are at work
        if killed:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C does
        printed, _ = process.communicate(timeout=20)  # ends once no worker holds the pipe; a picture takes longer
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert process.returncode == (-signal.SIGKILL if killed else 130)
    assert "Traceback" not in printed and ("interrupted" in printed) is not killed
    assert not out.exists()


def _pictures(folder: Path) -> Path:
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 10 + number), (50 * number, 0, 0)).save(folder / f"{number}.png")
    (folder / "notes.txt").touch()
    return folder


def test_import_says_what_it_did_and_what_next(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _pictures(tmp_path / "my cats")
    status, out, err = _run(capsys, "import", "my cats", "--size", 16)
    assert (status, err) == (0, "")
    for line in (
        "found: 20x10 to 20x12 pixels; modes: RGB 3",
        "cut to the middle square: 3",
        "smaller than --size, enlarged (blurred): 3",
        "other files, ignored: .txt 1",
        "datasets/my cats: 3 pictures of 16x16, ",
        "Next: hessian-penalty train clevr-simple-tiny --data 'datasets/my cats' --out 'runs/my cats'",
    ):
        assert line in out
    assert np.unique(ImageDataset("datasets/my cats").images_uint8[2]).tolist() == [0, 100]


def test_import_names_unreadable_pictures_or_skips_them(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "pictures")
    (folder / "bad.jpg").write_bytes(b"no picture")
    status, _, err = _run(capsys, "import", folder, "--out", tmp_path / "set")
    assert status == 2
    assert "bad.jpg: not a known picture format" in err and "pass --skip-unreadable" in err
    assert not (tmp_path / "set").exists()
    status, out, _ = _run(capsys, "import", folder, "--out", tmp_path / "set", "--skip-unreadable")
    assert status == 0
    assert "left out as unreadable: 1 (bad.jpg)" in out


def test_pairs_say_what_next(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with tarfile.open("edges2shoes.tar.gz", "w:gz") as archive:
        for number in range(3):
            Image.new("RGB", (32, 16), (50 * number, 0, 0)).save("pair.png")
            archive.add("pair.png", f"edges2shoes/val/{number}.png")
    digest = hashlib.sha256(Path("edges2shoes.tar.gz").read_bytes()).hexdigest()
    status, _, err = _run(capsys, "import", "edges2shoes.tar.gz", "--kind", "pairs", "--sha256", "0" * 64)
    assert status == 2 and digest in err and "0" * 64 in err
    assert not Path("datasets").exists()
    status, out, err = _run(capsys, "import", "edges2shoes.tar.gz", "--kind", "pairs", "--size", 16, "--sha256", digest)
    assert (status, err) == (0, "")
    assert "datasets/edges2shoes: 6 pictures of 16x16, " in out
    command = "edges-and-shoes-tiny --data datasets/edges2shoes --out runs/edges2shoes"
    assert f"Next: hessian-penalty train {command}\n" in out


def test_dsprites_and_3d_shapes_say_what_next(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    latents = np.ones((20, 6))
    np.savez_compressed("sprites.npz", imgs=np.ones((20, 64, 64), np.uint8), latents_values=latents)
    status, out, err = _run(capsys, "import", "sprites.npz", "--kind", "dsprites", "--count", 7, "--seed", 2)
    assert (status, err) == (0, "")
    assert "datasets/dsprites: 7 pictures of 64x64, " in out
    command = "clevr-simple-tiny --generator.image-channels 1 --data datasets/dsprites --out runs/dsprites"
    assert f"Next: hessian-penalty train {command}\n" in out
    assert ImageDataset("datasets/dsprites").metadata["seed"] == 2

    h5py = pytest.importorskip("h5py", reason="the hdf5 extra is not installed")
    with h5py.File("3dshapes.h5", "w") as file:
        file["images"], file["labels"] = np.zeros((5, 64, 64, 3), np.uint8), np.zeros((5, 6))
    status, out, err = _run(capsys, "import", "3dshapes.h5", "--kind", "shapes3d", "--size", 32)
    assert (status, err) == (0, "")
    assert "datasets/shapes3d: 5 pictures of 32x32, " in out
    assert "Next: hessian-penalty train clevr-simple-tiny --data datasets/shapes3d --out runs/shapes3d\n" in out


def test_import_from_a_url(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive = Path(shutil.make_archive("served/cats", "zip", _pictures(tmp_path / "cats")))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(archive.parent))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/cats.zip"
            status, _, err = _run(capsys, "import", url, "--size", 16, "--sha256", "0" * 64)
            assert status == 2 and digest in err and "delete it and fetch it anew" in err
            assert [path.name for path in Path("datasets").iterdir()] == ["cats.zip"]
            Path("datasets/cats.zip").unlink()
            status, out, err = _run(capsys, "import", url, "--size", 16)
            assert (status, err) == (0, "")
            assert f"datasets/cats.zip: fetched; --sha256 {digest}\n" in out
            assert "datasets/cats: 3 pictures of 16x16, " in out
            status, _, err = _run(capsys, "import", url.replace("cats", "dogs"))
            assert status == 2 and "the server answers 404" in err and "Fetch it elsewhere" in err
        finally:
            server.shutdown()
            thread.join()
    status, out, _ = _run(capsys, "import", url, "--size", 16, "--out", "datasets/again", "--sha256", digest)
    assert status == 0
    assert f"datasets/cats.zip: there already, not fetched again; --sha256 {digest}\n" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", "clever"), "Unknown data set 'clever'; choose one of clevr-simple, clevr-1fov, clevr-complex."),
        (("render", "clevr-simple", "--count", 0), "`count` must be at least 1, got 0."),
        (("render", "clevr-simple", "--size", 65), "`size` must be a power of two from 4 to 1024, got 65."),
        (("render", "clevr-simple", "--workers", -1), "`workers` must be at least 1, got -1."),
        (("render", "clevr-simple", "--out", "."), ". exists already. Choose another --out, or move it away."),
        (("import", "nowhere"), "nowhere does not exist. Give a folder of pictures, or a .zip, .tar or .tar.gz file."),
        (("import", ".", "--out", "set"), ". is empty. Give a folder of pictures, or a .zip, .tar or .tar.gz file."),
        (("import", ".", "--out", "."), ". holds the pictures themselves. Choose another --out."),
        (("import", ".", "--size", "64.5"), "64.5"),
        (("import", ".", "--kind", "shoes"), "shoes"),
        (("import", ".", "--count", 5), "--count does nothing for --kind pictures. Leave it out."),
        (("import", ".", "--kind", "pairs", "--seed", 0), "--seed does nothing for --kind pairs."),
        (
            ("import", ".", "--kind", "dsprites", "--skip-unreadable"),
            "--skip-unreadable does nothing for --kind dsprites",
        ),
        (("import", "nowhere", "--kind", "dsprites"), "nowhere does not exist. Give the published dsprites file."),
        (("import", ".", "--kind", "shapes3d"), ". is a folder. Give the published shapes3d file."),
        (("import", ".", "--sha256", "0" * 64), ". is a folder: `sha256` is for a file."),
        (("import", "http://example.org"), "http://example.org names no file."),
        (("import", "http://example.org/a.zip", "--size", 65), "`size` must be a power of two from 4 to 1024, got 65."),
        (("render",), "NAME"),
        (("render", "clevr-simple", "--colour", "red"), "--colour"),
    ],
)
def test_mistakes_get_one_message(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = _run(capsys, *arguments)
    assert status == 2
    assert message in err
    assert not any(tmp_path.iterdir())
