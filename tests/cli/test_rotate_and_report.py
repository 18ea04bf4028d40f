import json

from hessian_penalty.cli.main import main

SEARCH = ["--set", "sketches=16", "held_out=8", "rounds=1"]
PROTOCOL = [
    "--protocol.activeness-samples",
    "4",
    "--protocol.hessian-samples",
    "2",
    "--protocol.frechet-images",
    "8",
    "--protocol.batch-size",
    "16",
]


def test_rotate_then_report(small_run, tmp_path, capsys):
    rotated, page = tmp_path / "rotated", tmp_path / "page.html"
    assert main(["rotate", str(small_run.path), "--out", str(rotated), *SEARCH]) == 0
    shown = capsys.readouterr().out
    assert "effective latents" in shown
    assert "held-out penalty, relative to before" in shown
    assert main(["report", str(small_run.path), str(rotated), "--out", str(page), *PROTOCOL]) == 0
    shown = capsys.readouterr().out
    assert "Fréchet distance" in shown
    assert "vanilla" in page.read_text()
    measures = json.loads((rotated / "measures.json").read_text())["measures"]
    assert measures["frechet"] is not None  # the data set was found through the run's provenance
    assert len(measures["activeness"]) == 4


def test_mistakes_are_told_without_traceback(small_run, tmp_path, capsys):
    assert main(["rotate", str(tmp_path), "--out", str(tmp_path / "x")]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["rotate", str(small_run.path), "--out", str(small_run.path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["report", str(small_run.path), "--out", str(small_run.path)]) == 2
    assert "is a folder: name the page" in capsys.readouterr().err
    assert small_run.config_path.exists()
    assert main(["report"]) == 2
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "z"), "--seed", str(10**20)]) == 2
    assert "--seed must be a finite number" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "is not a run" in capsys.readouterr().err
    assert main(["report", str(small_run.path), "--data", str(tmp_path)]) == 2
    assert "is not an image data set" in capsys.readouterr().err
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "y"), "--set", "sketches=0"]) == 2
    error = capsys.readouterr().err
    assert "sketches must be a finite number at least 1, got 0" in error
    assert "Traceback" not in error
