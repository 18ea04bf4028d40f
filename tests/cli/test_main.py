import pytest

from hessian_penalty.cli.main import COMMANDS, main


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)
    assert main([]) == 0


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


def test_an_interruption_is_no_traceback(monkeypatch, capsys, small_run, tmp_path):
    from hessian_penalty.cli import rotate_command

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(rotate_command, "rotate_run", interrupted)
    assert main(["rotate", str(small_run.path), "--out", str(tmp_path / "out")]) == 130
    assert "interrupted" in capsys.readouterr().err
