"""The run folder: what is written is whole, or it is not there."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.runs import RunFolder, atomic_path, from_record, read_json, write_json


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_file_appears_only_when_the_block_is_done(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "note.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.suffix == ".txt" and temporary.parent == target.parent
    assert target.read_text() == "new"
    assert _names(target.parent) == ["note.txt"]


def test_atomic_folder_replaces_a_full_one(tmp_path: Path) -> None:
    target = tmp_path / "kimg-000001.000"
    for content in ("old", "new"):
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert _names(target) == ["new"]
    assert _names(tmp_path) == [target.name]


@pytest.mark.parametrize("folder", [False, True])
def test_failure_leaves_the_old_state(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "state"
    if folder:
        target.mkdir()
        (target / "weights").write_text("old")
    else:
        target.write_text("old")
    with pytest.raises(RuntimeError, match="half-way"), atomic_path(target) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "weights").write_text("ne")
        else:
            temporary.write_text("ne")
        raise RuntimeError("half-way")
    assert (target / "weights" if folder else target).read_text() == "old"
    assert _names(tmp_path) == ["state"]


def test_folder_survives_when_the_second_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "state"
    target.mkdir()
    (target / "weights").write_text("old")
    rename, calls = os.replace, []

    def failing(source: Path, destination: Path) -> None:
        calls.append(destination)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, destination)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as temporary:
        temporary.mkdir()
    assert (target / "weights").read_text() == "old"
    assert _names(tmp_path) == ["state"]


def test_kill_between_writes_leaves_the_old_state(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"seed": 1})
    program = (
        "import os, sys\n"
        "from hessian_penalty.runs import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('{\"se')\n"
        "    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "config.json"]).returncode == 9
    assert read_json(tmp_path / "config.json") == {"seed": 1}


def test_leftover_of_a_killed_process_with_our_number_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / f".state.tmp{os.getpid()}").mkdir()
    with atomic_path(tmp_path / "state") as temporary:
        temporary.mkdir()
    assert _names(tmp_path) == ["state"]


def test_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "note"):
        pass


def test_read_json_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"b\.json is not valid JSON .*make it anew"):
        read_json(tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"c\.json is not valid JSON"):
        read_json(tmp_path / "c.json")


def test_open_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run: expected .*config\.json"):
        RunFolder.open(tmp_path)
    write_json(tmp_path / "config.json", {})
    assert RunFolder.open(tmp_path).path == tmp_path


def test_create_refuses_a_folder_in_use(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "a")
    assert run.path.is_dir()
    RunFolder.create(run.path)  # still empty
    (run.path / "note").touch()
    with pytest.raises(UserError, match="exists and is not empty"):
        RunFolder.create(run.path)
    with pytest.raises(UserError, match="exists and is not empty"):
        RunFolder.create(run.path / "note")


def test_checkpoints_are_ordered_by_kimg_and_temporaries_are_none(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match="has no checkpoint under"):
        run.latest_checkpoint()
    for kimg in (100.0, 20.0, 9.984, 1000.5):
        run.checkpoint_path(kimg).mkdir(parents=True)
    (tmp_path / "checkpoints" / ".kimg-002000.tmp7.000").mkdir()
    assert run.checkpoints() == [run.checkpoint_path(kimg) for kimg in (9.984, 20.0, 100.0, 1000.5)]
    assert run.latest_checkpoint().name == "kimg-001000.500"


def test_metrics_come_back_and_a_cut_last_line_does_not(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.metrics() == []
    records = [{"kimg": 1.0, "loss": 0.5}, {"kimg": 2.0, "loss": 0.25}]
    for record in records:
        run.append_metrics(record)
    assert run.metrics() == records
    whole = run.metrics_path.read_bytes()
    for cut in range(1, whole.index(b"\n")):  # every place inside the last line
        run.metrics_path.write_bytes(whole[: -1 - cut])
        assert run.metrics() == records[:1]
    run.metrics_path.write_bytes(whole + b"\0\0\0")  # what a power cut may leave
    assert run.metrics() == records


def test_metrics_name_a_damaged_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics_path.write_text('{"kimg": 1}\n{"kimg": \n{"kimg": 3}\n')
    with pytest.raises(UserError, match=r"Line 2 of .*metrics\.jsonl is not valid JSON"):
        run.metrics()


def test_rewind_drops_later_records_and_the_cut_line(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for kimg in (1.0, 2.0, 3.0):
        run.append_metrics({"kimg": kimg})
    with run.metrics_path.open("a") as file:
        file.write('{"kimg": 4')
    run.rewind_metrics(2.0)
    run.append_metrics({"kimg": 2.5})
    assert [record["kimg"] for record in run.metrics()] == [1.0, 2.0, 2.5]


@dataclasses.dataclass(frozen=True)
class _Inner:
    widths: tuple[int, ...] = (1,)


@dataclasses.dataclass(frozen=True)
class _Outer:
    name: str
    inner: _Inner = dataclasses.field(default_factory=_Inner)


def test_from_record_undoes_json(tmp_path: Path) -> None:
    outer = _Outer("a", _Inner((4, 8)))
    write_json(tmp_path / "record.json", dataclasses.asdict(outer))
    assert from_record(_Outer, read_json(tmp_path / "record.json"), "record.json") == outer
    assert from_record(_Inner, {"widths": [[1, 2], [3]]}, "record.json") == _Inner(((1, 2), (3,)))  # type: ignore[arg-type]
    assert from_record(_Outer, {"name": "b"}, "record.json") == _Outer("b")  # defaults stay where they are written


@dataclasses.dataclass(frozen=True)
class _Perhaps:
    inner: _Inner | None = None


@pytest.mark.parametrize("outer", [_Perhaps(), _Perhaps(_Inner((2,)))])
def test_a_part_that_may_be_missing_comes_back_as_it_was(outer: _Perhaps) -> None:
    assert from_record(_Perhaps, json.loads(json.dumps(dataclasses.asdict(outer))), "record.json") == outer


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": "a", "colour": 1}, r"config\.json has unknown fields colour; known ones: name, inner"),
        ({"name": "a", "inner": {"depth": 1}}, r"config\.json\.inner has unknown fields depth"),
        ({"name": "a", "inner": 3}, r"config\.json\.inner must be an object with the fields of _Inner, got 3"),
        ([], r"config\.json must be an object"),
        ({}, r"config\.json cannot be read as _Outer: .*name"),
    ],
)
def test_from_record_is_strict(record: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_record(_Outer, record, "config.json")


def test_a_file_never_replaces_a_folder(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    with (
        pytest.raises(UserError, match="is a folder, but a file is to be written there"),
        atomic_path(folder) as temporary,
    ):
        temporary.write_text("page")
    assert (folder / "kept").read_text() == "kept"
    assert _names(tmp_path) == ["folder"]


@pytest.mark.parametrize(("text", "message"), [("[]", "must hold a JSON object, got list"), ("3", "got int")])
def test_a_config_that_is_no_object_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        RunFolder.open(tmp_path).provenance()


@pytest.mark.parametrize("line", ["3", "{}", '{"kimg": "x"}'])
def test_a_metrics_line_without_kimg_is_named(tmp_path, line):
    run = RunFolder(tmp_path)
    run.metrics_path.write_text(line + "\n")
    with pytest.raises(UserError, match="Line 1 of .* is no record with `kimg`"):
        run.metrics()
