import re

from rich.console import Console

from hessian_penalty.cli import progress
from hessian_penalty.cli.progress import progress_bar


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_log_file_gets_a_line_now_and_then_with_an_eta(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress_bar("work") as update:
        for done in range(101):
            clock.now = done * 1.0
            update(done, 100, f"note {done}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8  # at 0, 15, 30, …, 90 and the end
    assert lines[2] == "work: 30/100, 0:00:30 elapsed, ETA 0:01:10  note 30"
    assert lines[-1].startswith("work: 100/100")


def test_the_eta_of_resumed_work_counts_only_what_this_process_did(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with progress_bar("work") as update:
        update(50, 100)
        clock.now = 20.0
        update(60, 100)
    assert "60/100, 0:00:20 elapsed, ETA 0:01:20" in capsys.readouterr().out


def test_the_end_is_told_once(capsys):
    with progress_bar("work") as update:
        update(0, 2)
        update(2, 2)
        update(2, 2)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(progress, "Console", lambda: Console(force_terminal=True, width=100))
    with progress_bar("work") as update:
        update(1, 4, "figures")
    shown = capsys.readouterr().out
    assert re.search(r"work.*25%.*ETA.*figures", shown, re.DOTALL)
