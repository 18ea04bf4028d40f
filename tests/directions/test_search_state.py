from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hessian_penalty.directions import search_state
from hessian_penalty.directions.search_state import SECONDS_BETWEEN_SAVES, SearchState
from hessian_penalty.errors import UserError

IDENTITY = {"method": "hessian", "settings": {"rounds": 3, "sizes": (1, 2)}, "generator": "a1"}


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(search_state, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "search.safetensors"


def keep(state, tensors):
    state.save(tensors)
    state.flush()


def test_a_new_search_has_nothing_and_writes_nothing(path):
    assert SearchState(path, IDENTITY).load() is None
    assert not path.parent.exists()


def test_what_was_saved_is_loaded_exactly(path):
    tensors = {
        "A": torch.randn(3, 4, dtype=torch.float64, requires_grad=True),
        "transposed": torch.randn(3, 4).T,
        "step": torch.tensor(17),
        "rng": torch.Generator().manual_seed(3).get_state(),
    }
    keep(SearchState(path, IDENTITY), tensors)
    for given in (path, str(path)):
        found = SearchState(given, IDENTITY).load()
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor.detach())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_identities_are_equal_as_json(path):
    """The order of keys does not matter, and tuples are lists."""
    keep(SearchState(path, IDENTITY), {"A": torch.ones(1)})
    same = {"generator": "a1", "settings": {"sizes": [1, 2], "rounds": 3}, "method": "hessian"}
    assert SearchState(path, same).load() is not None


def test_saves_are_some_time_apart(path, clock):
    state = SearchState(path, IDENTITY)

    def kept():
        return int(SearchState(path, IDENTITY).load()["step"]) if path.exists() else None

    def save(step):
        state.save({"step": torch.tensor(step)})

    clock.seconds += SECONDS_BETWEEN_SAVES - 1
    save(1)
    assert kept() is None
    clock.seconds += 1
    save(2)
    assert kept() == 2
    clock.seconds += SECONDS_BETWEEN_SAVES - 1
    save(3)
    save(4)
    assert kept() == 2
    state.flush()
    assert kept() == 4
    clock.seconds += SECONDS_BETWEEN_SAVES - 1  # after the last save, whatever asked for it
    save(5)
    assert kept() == 4
    clock.seconds += 1
    save(6)
    assert kept() == 6


def test_flush_writes_only_what_is_not_yet_on_disk(path, clock):
    state = SearchState(path, IDENTITY)
    state.flush()
    assert not path.exists()
    clock.seconds += SECONDS_BETWEEN_SAVES
    state.save({"step": torch.tensor(1)})
    path.unlink()
    state.flush()
    assert not path.exists()


def test_an_interruption_costs_a_minute_at_most():
    assert SECONDS_BETWEEN_SAVES <= 60


def test_finish_deletes_the_file_if_there_is_one(path):
    state = SearchState(path, IDENTITY)
    state.finish()
    keep(state, {"A": torch.ones(1)})
    assert path.exists()
    state.finish()
    assert not path.exists()
    assert SearchState(path, IDENTITY).load() is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"generator": "b2"}, "generator"),
        ({"method": "voynov", "settings": {"steps": 1}}, "method, settings"),
        ({"subspace": "None"}, "subspace"),
    ],
)
def test_another_search_is_refused_by_what_differs(path, change, named):
    keep(SearchState(path, IDENTITY), {"A": torch.ones(1)})
    kept = path.read_bytes()
    message = f"search.safetensors holds another search: {named} differ.s.. Repeat that search to finish it, or delete"
    with pytest.raises(UserError, match=message):
        SearchState(path, IDENTITY | change)
    assert path.read_bytes() == kept


def test_what_the_file_has_more_is_named_too(path):
    keep(SearchState(path, {**IDENTITY, "random_state": "c3"}), {"A": torch.ones(1)})
    with pytest.raises(UserError, match="another search: random_state differ"):
        SearchState(path, IDENTITY)


def test_a_file_of_something_else_is_refused(path):
    path.parent.mkdir()
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(UserError, match="holds another search: generator, method, settings differ"):
        SearchState(path, IDENTITY)


@pytest.mark.parametrize("damage", ["cut short", "text", "empty", "identity"])
def test_a_damaged_file_is_refused(path, damage):
    keep(SearchState(path, IDENTITY), {"A": torch.ones(100)})
    whole = path.read_bytes()
    if damage == "identity":
        save_file({"A": torch.ones(1)}, path, {"identity": "{not json"})
    else:
        path.write_bytes({"cut short": whole[:-50], "text": b"not tensors at all", "empty": b""}[damage])
    with pytest.raises(UserError, match=r"search.safetensors cannot be read \(.+\); delete it to begin anew."):
        SearchState(path, IDENTITY)


def test_a_failed_save_keeps_the_last_one(path, monkeypatch):
    state = SearchState(path, IDENTITY)
    keep(state, {"A": torch.ones(1)})

    def failing(tensors, temporary, metadata):
        temporary.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(search_state, "save_file", failing)
    with pytest.raises(OSError, match="disk full"):
        keep(state, {"A": torch.zeros(1)})
    assert torch.equal(SearchState(path, IDENTITY).load()["A"], torch.ones(1))
    assert [file.name for file in path.parent.iterdir()] == [path.name]
