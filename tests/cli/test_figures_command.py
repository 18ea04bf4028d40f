import shutil

import pytest

from hessian_penalty.cli.main import main
from hessian_penalty.reports.figure_files import FigureFiles
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies import figures


def test_figures_of_two_runs_side_by_side(small_run, tmp_path, monkeypatch, capsys):
    """Pictures and videos alone are drawn; all figures are in the tests of the study."""
    monkeypatch.chdir(tmp_path)
    files = ("-light.png", "-dark.png")
    monkeypatch.setattr(figures, "write_figure", lambda make, folder, name: FigureFiles(folder / name, files))
    (tmp_path / "other").mkdir()
    shutil.copytree(small_run.path, tmp_path / "other" / "vanilla")
    runs = [str(small_run.path), "other/vanilla"]
    assert main(["figures", *runs, "--out", "drawn", "--samples", "2", "--frames", "2", "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "hessian-penalty evaluate other/vanilla" in shown
    assert f"figures of 2 runs; open {tmp_path / 'drawn' / 'index.html'}." in shown
    assert "drawing figures: 9/9" in shown
    for name in (f"{small_run.path.parent.name}/vanilla", "other/vanilla"):
        assert (tmp_path / "drawn" / name / "samples-dark.png").exists()
        assert (tmp_path / "drawn" / name / "traversal.mp4").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "Name at least one run."),
        (["nothing"], "nothing is not a run"),
        (["RUN", "RUN"], "A run is named twice; name each once."),
        (["RUN", "--out", "file"], "file is a file: name a folder for the figures, as --out figures."),
        (["untrained"], "has no checkpoint under"),
    ],
)
def test_mistakes_are_told_without_traceback(small_run, tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    RunFolder.create(tmp_path / "untrained").config_path.write_text(small_run.config_path.read_text())
    arguments = [str(small_run.path) if word == "RUN" else word for word in given]
    assert main(["figures", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "figures").exists()


def test_settings_out_of_range_are_refused(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["figures", str(small_run.path), "--samples", "1"]) == 2
    assert "samples must be a finite number at least 2, got 1" in "".join(capsys.readouterr())
