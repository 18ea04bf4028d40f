import dataclasses
import json
import re
import sys
from unittest.mock import MagicMock

import pytest

from hessian_penalty.cli.main import main
from hessian_penalty.cli.train_command import parse
from hessian_penalty.runs import RunFolder

SMALL = [
    "--generator.latent-dim",
    "4",
    "--generator.channels",
    "12",
    "8",
    "8",
    "--total-kimg",
    "0.064",
    "--batch-size",
    "16",
    "--log-kimg",
    "0.032",
    "--snapshot-kimg",
    "0.032",
    "--accelerator",
    "cpu",
]


def train(*words):
    return main(["train", "clevr-simple-tiny", *SMALL, *map(str, words)])


def test_train_then_finetune_then_resume(small_dataset, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert train("--data", small_dataset.path, "--out", first) == 0
    shown = capsys.readouterr().out
    assert "ETA" in shown
    assert "Next: hessian-penalty rotate" in shown
    run = RunFolder.open(first)
    assert [record["kimg"] for record in run.metrics()] == [0.032, 0.064]
    assert run.latest_checkpoint().name == "kimg-000000.064"
    assert list(run.samples_path.glob("*.png"))
    assert list(run.traversals_path.glob("*.png"))
    assert list(run.path.glob("events.out.tfevents.*"))

    penalty = [
        "--penalty.adaptive",
        "0.1",
        "--penalty.reduction",
        "mean",
        "--penalty.scale-free",
        "--penalty.ramp-kimg",
        "0.032",
    ]
    assert train("--data", small_dataset.path, "--out", second, "--finetune", first, *penalty) == 0
    config = json.loads((second / "config.json").read_text())
    assert config["penalty"]["adaptive"] == 0.1
    assert config["provenance"]["preset"] == "clevr-simple-tiny"
    assert config["provenance"]["finetuned_from"] == "first"
    assert "penalty" in RunFolder.open(second).metrics()[-1]

    assert main(["train", "--resume", str(second), "--accelerator", "cpu"]) == 0
    assert "resumed at 0.064 of 0.064 kimg" in capsys.readouterr().out


def test_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train("--dry-run") == 0
    shown = capsys.readouterr().out
    assert re.search(r"0\.064 kimg at 16 pixels on cpu: \S+ s, 0\.\d+ GiB peak memory", shown)
    assert re.search(r"16 px .* 0\.064 .* 16 .* all .* s .* ~0\.\d+", shown)
    assert re.search(r"RTX 4090 .* 82\.6 TFLOPS .* s .* 24 GB", shown)
    assert "By arithmetic, not measured" in shown
    assert "at 40% of the dense float32 peak" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (["--method", "hessian"], {"form": "hessian", "adaptive": 0.02, "scale_free": True, "ramp_kimg": 4.0}),
        (["--method=orojar", "--penalty.adaptive", "0.5"], {"form": "orojar", "adaptive": 0.5}),
        (["--method", "infogan"], {"adaptive": 0.0}),
    ],
)
def test_a_method_is_one_flag_and_other_flags_override_it(words, expected):
    command = parse(["clevr-simple-tiny", *words])
    assert dataclasses.asdict(command.training.penalty).items() >= expected.items()
    assert command.training.infogan.latents == (4 if "infogan" in words else 0)


def test_a_fine_tuning_ramps_the_penalty_in():
    from_scratch = parse(["clevr-simple", "--method", "hessian"])
    assert (from_scratch.training.penalty.weight, from_scratch.training.penalty.ramp_kimg) == (0.1, 0.0)
    tuned = parse(["clevr-simple", "--method", "hessian", "--finetune", "runs/vanilla"])
    assert (tuned.training.penalty.weight, tuned.training.penalty.ramp_kimg) == (0.1, 10_000.0)


@pytest.mark.parametrize("method", ["infogan", "orojar", "hessian"])
def test_each_baseline_trains(small_dataset, tmp_path, method):
    assert train("--data", small_dataset.path, "--out", tmp_path / "run", "--method", method) == 0
    run = RunFolder.open(tmp_path / "run")
    assert run.provenance()["method"] == method
    assert {"infogan": "information_loss"}.get(method, "penalty") in run.metrics()[-1]


def test_wandb_gets_what_tensorboard_gets(small_dataset, tmp_path, monkeypatch):
    wandb = MagicMock()
    wandb.init.return_value.id = "abc"
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert train("--data", small_dataset.path, "--out", tmp_path / "run", "--wandb", "squares") == 0
    assert wandb.init.call_args.kwargs["project"] == "squares"
    logged = {name for call in wandb.init.return_value.log.call_args_list for name in call.args[0]}
    assert {"samples", "traversals"} <= logged
    wandb.init.return_value.finish.assert_called_once()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "clevr-hard"], "Unknown preset 'clevr-hard'; choose one of clevr-simple-tiny"),
        (["train"], "Name a preset first"),
        (["train", "clevr-simple-tiny"], "--data and --out missing"),
        (["train", "clevr-u"], "`hessian-penalty render clevr-simple --size 128` makes the data"),
        (["train", "clevr-u", "--method", "magic"], "must be one of vanilla, infogan, orojar, hessian, published, got"),
        (["train", "clevr-u", "--growth.batch-sizes", "8", "8"], "growth.batch_sizes must name one value for each of"),
        (["train", "clevr-simple-tiny", "--out", "x", "--data", "nowhere"], "nowhere is not an image data set"),
        (["train", "--resume", "nowhere"], "nowhere is not a run"),
        (
            ["train", "clevr-simple-tiny", "--resume", "x"],
            "A resumed run has its own settings: leave 'clevr-simple-tiny'",
        ),
        (["train", "--resume", "x", "--total-kimg", "500"], "total-kimg"),
        (["train", "clevr-simple-tiny", "--penalty.k", "1"], "penalty.k must be a finite number at least 2"),
        (["train", "clevr-simple-tiny", "--batch-size", "0"], "batch_size must be a finite number at least 1"),
    ],
)
def test_mistakes_are_told_without_traceback(words, message, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_run_folder_is_not_overwritten(small_dataset, small_run, capsys):
    assert train("--data", small_dataset.path, "--out", small_run.path) == 2
    assert "exists and is not empty. Choose another --out, or go on with --resume" in capsys.readouterr().err


def test_a_missing_finetune_run_leaves_nothing(small_dataset, tmp_path, capsys):
    assert train("--data", small_dataset.path, "--out", tmp_path / "out", "--finetune", tmp_path / "none") == 2
    assert "is not a run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
