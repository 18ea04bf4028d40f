import sys

import pytest
import torch

from hessian_penalty.cli.main import COMMANDS, main


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main([]) == 0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["hessian-penalty", "0.1.0,"]


def test_unknown_command(capsys):
    assert main(["dance"]) == 2
    assert "unknown command 'dance'" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    arguments = [name, "--help"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert f"hessian-penalty {name}" in shown
    assert "options" in shown


def test_a_missing_extra_is_named_with_the_line_that_installs_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    for name in [name for name in sys.modules if name.startswith("hessian_penalty.") and "train" in name]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["train", "clevr-simple-tiny", "--dry-run"]) == 2
    assert "needs lightning_fabric: pip install 'hessian-penalty[training]'" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("hessian_penalty.") and "demo" in name]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["demo"]) == 2
    assert "needs lightning_fabric: pip install 'hessian-penalty[demo]'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [MemoryError("x"), torch.OutOfMemoryError("x")])
def test_lack_of_memory_is_no_traceback(monkeypatch, capsys, small_run, tmp_path, error):
    from hessian_penalty.cli import rotate_command

    def exhausted(*arguments, **options):
        raise error

    monkeypatch.setattr(rotate_command, "rotate_run", exhausted)
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "out")]) == 2
    assert "out of memory (x). Use a smaller batch size" in capsys.readouterr().err


def test_an_interruption_is_no_traceback(monkeypatch, capsys, small_run, tmp_path):
    from hessian_penalty.cli import rotate_command

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(rotate_command, "rotate_run", interrupted)
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err
