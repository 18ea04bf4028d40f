import re

from rich.text import Text

from hessian_penalty.cli.model_tables import print_models

MODELS = {f"model-{letter}": [Text("0.123 ± 0.012"), Text("–")] for letter in "abcdefg"}


def test_models_that_do_not_fit_come_below(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_models(["Off-diagonal share ↓", "MIG ↑"], MODELS)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    heads = [re.findall(r"model-\w", line) for line in lines if "model-" in line]
    assert heads == [["model-a", "model-b", "model-c"], ["model-d", "model-e", "model-f"], ["model-g"]]
    assert shown.count("0.123 ± 0.012") == 7  # none is broken over lines
    assert shown.count("Off-diagonal share ↓") == 3


def test_a_wide_terminal_has_one_table(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    print_models(["Off-diagonal share ↓", "MIG ↑"], MODELS)
    assert capsys.readouterr().out.count("MIG ↑") == 1


def test_a_narrow_terminal_has_a_table_a_model(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    print_models(["MIG"], {"[bold]": [Text("1")], "b": [Text("2")]})
    shown = capsys.readouterr().out
    assert "[bold]" in shown and shown.count("MIG") == 2
