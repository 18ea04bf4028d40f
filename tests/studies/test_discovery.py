import csv
import html
import itertools
from functools import partial

import pytest
import torch
from PIL import Image

from hessian_penalty.directions import discover as discover_module
from hessian_penalty.directions import search_state
from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.fixed import Coordinates, RandomBasis
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.studies import discovery
from hessian_penalty.studies.discovery import discover_into

QUICK = HessianSearch(sketches=16, held_out=8, rounds=1, batch_size=8)
# z = Σ w_i d_i, and pixel i is sin(s_i w_i): the Hessian of every pixel is diagonal along the d_i.
TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5)))[0]
SIZES = torch.tensor([0.3, 1.0, 0.6])


def independent(z):
    return torch.sin(z @ TURN.T * SIZES)[:, None, None, :].repeat(1, 3, 8, 1)


@pytest.fixture
def G():
    return FunctionGenerator(independent, 3)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(discover_module, "ACTIVENESS_SAMPLES", 60)
    monkeypatch.setattr(discovery, "direction_videos", partial(discovery.direction_videos, frames=4))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_known_directions_are_found_and_written(G, tmp_path):
    found = discover_into(tmp_path / "a" / "b", G, method=QUICK, shown=0, source="mine:make", seed=4)
    expected = TURN[[1, 2, 0]]  # the most active first
    overlap = (found.matrix @ expected.T).abs()
    assert torch.allclose(overlap, torch.eye(3), atol=1e-3)
    assert names_in(tmp_path / "a" / "b") == ["directions.csv", "directions.safetensors", "report.html"]
    kept = Directions.load(tmp_path / "a" / "b" / "directions.safetensors")
    assert torch.equal(kept.matrix, found.matrix)
    assert torch.equal(kept.activeness, found.activeness)
    assert kept.provenance == found.provenance
    assert kept.provenance["method"] == "hessian"
    assert (kept.provenance["seed"], kept.provenance["source"]) == (4, "mine:make")
    rows = list(csv.DictReader((tmp_path / "a" / "b" / "directions.csv").read_text().splitlines()))
    assert [float(row["activeness"]) for row in rows] == pytest.approx(found.activeness.tolist())


def test_it_finds_what_discover_does(G, tmp_path):
    into = discover_into(tmp_path / "out", G, method="random", count=2, subspace=slice(0, 2), seed=7, shown=0)
    rng = torch.Generator().manual_seed(7)
    alone = discover(G, method="random", count=2, subspace=slice(0, 2), rng=rng)
    assert torch.equal(into.matrix, alone.matrix)
    assert into.matrix.shape == (2, 3)


@pytest.mark.parametrize(
    ("shown", "video"),
    [(0, None), (1, "direction-000.mp4"), (2, "directions-000-001.mp4"), (9, "directions-000-002.mp4")],
)
def test_as_many_are_shown_as_there_are_and_are_wanted(G, tmp_path, monkeypatch, shown, video):
    counts, sheet = [], discovery.direction_sheet
    monkeypatch.setattr(discovery, "direction_sheet", lambda *a, **k: counts.append(k["count"]) or sheet(*a, **k))
    discover_into(tmp_path / "out", G, method=Coordinates(), shown=shown, command="hessian-penalty discover x")
    pictures = ["directions.png", video] if shown else []
    assert names_in(tmp_path / "out") == sorted(["directions.csv", "directions.safetensors", "report.html", *pictures])
    assert counts == ([min(shown, 3)] if shown else [])
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    assert page.count("data:video/mp4") == page.count("data:image/png") == bool(shown)
    assert "found by the method 'coordinates'" in page
    assert "hessian-penalty discover x" in page


def test_the_page_is_named_after_the_source_or_the_class(G, tmp_path):
    discover_into(tmp_path / "a", G, method=Coordinates(), shown=0, source="mine:make")
    discover_into(tmp_path / "b", G, method=Coordinates(), shown=0)
    assert "Directions of mine:make" in (tmp_path / "a" / "report.html").read_text()
    assert "Directions of FunctionGenerator" in (tmp_path / "b" / "report.html").read_text()


def test_pictures_depend_on_seed_and_extent(G, tmp_path):
    for name, options in (("a", {}), ("b", {}), ("seed", {"seed": 1}), ("extent", {"extent": 1.0})):
        discover_into(tmp_path / name, G, method=Coordinates(), shown=1, **options)
    pixels = {}
    for name in ("a", "b", "seed", "extent"):
        picture = Image.open(tmp_path / name / "directions.png")
        pixels[name] = picture.crop((picture.width - 66, picture.height - 176, *picture.size)).tobytes()  # last tile
    assert pixels["a"] == pixels["b"]
    assert pixels["seed"] != pixels["a"] != pixels["extent"]


def test_conditions_reach_search_pictures_and_provenance(tmp_path):
    seen = []

    def classes(z, labels):
        seen.append(labels)
        return independent(z)

    found = discover_into(
        tmp_path / "out", FunctionGenerator(classes, 3), method=RandomBasis(), shown=1, conditions={"labels": 2}
    )
    assert set(torch.cat(seen).tolist()) == {2}
    assert found.provenance["conditions"] == {"labels": "2"}


def test_progress_is_told_of_search_and_videos(G, tmp_path):
    titles, updates = [], []

    class Bar:
        def __init__(self, title):
            titles.append(title)

        def __enter__(self):
            return lambda done, total: updates.append((titles[-1], done, total))

        def __exit__(self, *exception):
            return None

    discover_into(tmp_path / "out", G, method=QUICK, shown=1, progress_of=Bar)
    assert titles == ["searching directions", "videos"]
    for title in titles:
        done, totals = zip(*[(d, t) for told, d, t in updates if told == title], strict=True)
        assert list(done) == sorted(done)
        assert done[-1] == totals[-1]
        assert len(set(totals)) == 1


def test_an_interrupted_search_goes_on_and_ends_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(search_state, "SECONDS_BETWEEN_SAVES", 0.0)
    calls = itertools.count()
    stop_at = None

    def counted(z):
        if next(calls) == stop_at:
            raise KeyboardInterrupt
        return independent(z)

    G = FunctionGenerator(counted, 3)
    whole = discover_into(tmp_path / "whole", G, method=QUICK, shown=0)
    total, calls, stop_at = next(calls), itertools.count(), 20
    with pytest.raises(KeyboardInterrupt):
        discover_into(tmp_path / "out", G, method=QUICK, shown=0)
    assert names_in(tmp_path / "out") == ["search.safetensors"]
    calls, stop_at = itertools.count(), None
    found = discover_into(tmp_path / "out", G, method=QUICK, shown=0)
    assert next(calls) < total
    assert torch.equal(found.matrix, whole.matrix)
    assert torch.equal(found.curvature, whole.curvature)
    assert found.provenance == whole.provenance
    assert names_in(tmp_path / "out") == names_in(tmp_path / "whole")


@pytest.fixture
def without_pictures(G, tmp_path, monkeypatch):
    """A folder whose search is done, and whose videos were interrupted."""

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(discovery, "direction_videos", stop)
        with pytest.raises(KeyboardInterrupt):
            discover_into(tmp_path / "out", G, method=RandomBasis(), shown=2, seed=3, source="mine")
    assert names_in(tmp_path / "out") == ["directions.csv", "directions.png", "directions.safetensors"]
    return tmp_path / "out"


def test_interrupted_pictures_go_on_without_a_search(G, without_pictures, monkeypatch):
    before = (without_pictures / "directions.safetensors").read_bytes()
    monkeypatch.setattr(discovery, "discover", lambda *a, **k: pytest.fail("searched again"))
    found = discover_into(without_pictures, G, method="random", shown=2, seed=3, source="mine")
    assert (without_pictures / "directions.safetensors").read_bytes() == before
    assert torch.equal(found.matrix, Directions.load(without_pictures / "directions.safetensors").matrix)
    assert "report.html" in names_in(without_pictures)
    assert "directions-000-001.mp4" in names_in(without_pictures)


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({"seed": 4}, "seed"),
        ({"source": "other"}, "source"),
        ({"method": Coordinates()}, "method"),
        ({"method": QUICK}, "method, settings"),
    ],
)
def test_pictures_of_another_search_are_not_made(G, without_pictures, change, differ):
    asked = {"method": RandomBasis(), "seed": 3, "source": "mine", "shown": 2}
    with pytest.raises(
        UserError, match=rf"of another search \({differ} differ\). Repeat that search to get its pictures"
    ):
        discover_into(without_pictures, G, **{**asked, **change})
    assert "report.html" not in names_in(without_pictures)


def test_what_was_left_over_does_not_come_onto_the_page(G, without_pictures):
    discover_into(without_pictures, G, method="random", shown=0, seed=3, source="mine")
    assert "data:image/png" not in (without_pictures / "report.html").read_text()


def test_what_is_complete_is_not_overwritten(G, tmp_path):
    discover_into(tmp_path / "out", G, method=Coordinates(), shown=0)
    with pytest.raises(UserError, match=r"directions.safetensors exists already. Choose another --out"):
        discover_into(tmp_path / "out", G, method=RandomBasis(), shown=0)
    assert Directions.load(tmp_path / "out" / "directions.safetensors").provenance["method"] == "coordinates"


def test_images_that_cannot_be_shown_are_refused_before_the_search(tmp_path):
    G = FunctionGenerator(lambda z: independent(z)[:, :2], 3)
    with pytest.raises(UserError, match=r"shape \(2, 8, 3\), which cannot be shown.*without pictures: --videos 0"):
        discover_into(tmp_path / "out", G, method=Coordinates())
    assert not (tmp_path / "out").exists()
    assert len(discover_into(tmp_path / "out", G, method=Coordinates(), shown=0)) == 3


def test_a_file_is_no_folder(G, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="out is a file; --out names a folder"):
        discover_into(tmp_path / "out", G)
    assert (tmp_path / "out").read_text() == "mine"
