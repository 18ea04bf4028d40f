"""Every command of the README and every snippet of README and docs runs: long ones with settings that only show it."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hessian_penalty.cli.main import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The snippet of results.md repeats a measurement on thousands of rendered pictures.
PAGES = [ROOT / "README.md", *sorted(page for page in ROOT.glob("docs/**/*.md") if page.name != "results.md")]

MEASURES = (
    "--protocol.activeness-samples 4 --protocol.hessian-samples 2 --protocol.frechet-images 8 "
    "--protocol.path-length-pairs 0 --protocol.predictability-pairs 0 --protocol.audit-images 0"
)
# Subcommand → what makes it short. Later flags win.
SHORT = {
    "demo": "--quick",
    "render": "--count 8",
    "import": "",
    "train": "--total-kimg 0.064 --snapshot-kimg 0.032 --batch-size 16 --generator.channels 8 8 8 8 --accelerator cpu",
    "discover": "--set sketches=16 held_out=8 rounds=1 --videos 2",
    "edit": "--samples 2",
    "rotate": "--set sketches=16 held_out=8 rounds=1",
    "prune": "--below 0.999",
    "traverse": "--frames 4 --columns 2",
    "evaluate": MEASURES,
    "figures": "--samples 2 --frames 2",
    "report": MEASURES,
    "study": f"--seeds 1 --arms vanilla --total-kimg 0.064 --workers 1 {MEASURES}",
}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def snippets():
    for page in PAGES:
        for number, snippet in enumerate(blocks("python", page.read_text(encoding="utf-8")), start=1):
            yield pytest.param(snippet, id=f"{page.stem}-{number}")


def shell_lines():
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [line.split("  #")[0].strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_every_shell_command_is_one_we_run_or_a_target_of_the_makefile():
    """`make` and `pip` lines are run by CI itself, which calls the same targets."""
    makefile = (ROOT / "Makefile").read_text()
    for line in shell_lines():
        first, second = line.split()[:2]
        if first == "make":
            assert re.search(rf"^{second}:", makefile, re.MULTILINE), line
        elif first == "hessian-penalty":
            assert second in SHORT, line
        else:
            assert first in ("git", "cd", "pip", "python3"), line


@pytest.mark.slow
def test_the_commands_run_in_the_order_given(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pictures = tmp_path / "my-pictures"
    pictures.mkdir()
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{index}.png")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    ran = []
    for line in shell_lines():
        program, *words = shlex.split(line)
        if program == "hessian-penalty":
            assert main([*words, *shlex.split(SHORT[words[0]])]) == 0, (line, capsys.readouterr())
            ran.append(words[0])
    assert set(ran) == set(SHORT)
    assert (tmp_path / "runs/demo/report.html").exists()


@pytest.mark.parametrize("snippet", list(snippets()))
def test_snippets_run(snippet, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(snippet, request.node.name, "exec"), {})
