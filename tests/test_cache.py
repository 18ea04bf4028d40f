from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hessian_penalty.cache import cache_folder, cached_tensors


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_folder()


def counting(calls: list[int], value: float = 1.0) -> Callable[[], dict[str, Tensor]]:
    def make() -> dict[str, Tensor]:
        calls.append(1)
        return {"a": torch.full((2,), value), "b": torch.arange(3)}

    return make


def test_made_once_and_found_again(folder: Path) -> None:
    calls: list[int] = []
    made = cached_tensors("features", {"data": "12", "count": 3}, counting(calls))
    found = cached_tensors("features", {"count": 3, "data": "12"}, counting(calls, value=7.0))
    assert len(calls) == 1
    assert all(torch.equal(found[name], made[name]) for name in ("a", "b")) and set(found) == set(made)
    assert [path.name.split("-")[0] for path in folder.iterdir()] == ["features"]


@pytest.mark.parametrize("other", [{"data": "13"}, {"data": "12", "count": 1}, {}])
def test_another_key_is_made_anew(folder: Path, other: dict[str, object]) -> None:
    calls: list[int] = []
    cached_tensors("features", {"data": "12"}, counting(calls))
    assert float(cached_tensors("features", other, counting(calls, value=2.0))["a"][0]) == 2.0
    assert len(calls) == 2


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", None])
def test_damaged_files_are_made_anew(folder: Path, content: bytes | None) -> None:
    calls: list[int] = []
    cached_tensors("features", {}, counting(calls))
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    cached_tensors("features", {}, counting(calls))
    cached_tensors("features", {}, counting(calls))
    assert len(calls) == 2


def test_file_of_another_key_is_not_taken(folder: Path) -> None:
    calls: list[int] = []
    cached_tensors("features", {"data": "1"}, counting(calls, value=1.0))
    (first,) = folder.iterdir()
    cached_tensors("features", {"data": "2"}, counting(calls, value=2.0))
    (second,) = set(folder.iterdir()) - {first}
    first.replace(second)  # under the other's name
    assert float(cached_tensors("features", {"data": "2"}, counting(calls, value=2.0))["a"][0]) == 2.0


def test_folder_that_cannot_be_written_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hessian-penalty").write_text("a file where the folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls: list[int] = []
    for _ in range(2):
        assert set(cached_tensors("features", {}, counting(calls))) == {"a", "b"}
    assert len(calls) == 2


def test_default_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "hessian-penalty"
