import base64
from pathlib import Path
from typing import Any

import pytest
import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.reports import direction_page
from hessian_penalty.reports.direction_page import directions_page, directions_section
from hessian_penalty.reports.direction_sheet import direction_sheet
from hessian_penalty.reports.direction_video import direction_videos

DIRECTIONS = Directions(
    torch.eye(3),
    activeness=torch.tensor([0.2, 0.05, 0.0]),
    provenance={
        "method": "hessian", "settings": {"sketches": 32}, "generator": "0123456789ab",
        "held_out_penalties": [1.0, 0.43219, 0.41],
    },
)  # fmt: skip


def test_the_page_holds_sheet_videos_bars_and_provenance(square: Any, tmp_path: Path) -> None:
    sheet_path = tmp_path / "directions.png"
    direction_sheet(square, DIRECTIONS, sheet_path, steps=3)
    videos = direction_videos(square, DIRECTIONS, tmp_path, rows=2, frames=2, samples=1)
    directions_page(
        DIRECTIONS, tmp_path, "Squares & more", sheet=sheet_path, videos=videos, command="hessian-penalty discover x"
    )
    text = (tmp_path / "report.html").read_text()
    assert "<h1>Squares &amp; more</h1>" in text
    sheet = base64.b64encode((tmp_path / "directions.png").read_bytes()).decode()
    assert f"data:image/png;base64,{sheet}" in text
    for name in ("directions-000-001.mp4", "direction-002.mp4"):
        assert base64.b64encode((tmp_path / name).read_bytes()).decode() in text
    assert text.count("<video") == 2
    assert "prefers-color-scheme: dark" in text
    assert "href=" not in text, "the page needs no other file"
    for fact in ("hessian", "32", "0123456789ab", "hessian-penalty discover x", "1.000 → 0.432 → 0.410"):
        assert fact in text
    bars = text.split("data:image/svg+xml;base64,")[1].split('"')[0]
    assert "direction 0" in base64.b64decode(bars).decode()
    assert "default-src 'none'" in text.replace("&#x27;", "'")


def test_videos_beyond_the_room_are_linked(square: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = direction_videos(square, DIRECTIONS, tmp_path, rows=1, frames=2, samples=1)
    first, second, third = videos
    monkeypatch.setattr(direction_page, "MOST_EMBEDDED", first.stat().st_size + second.stat().st_size)
    directions_page(DIRECTIONS, tmp_path, "Squares", sheet=None, videos=videos)
    text = (tmp_path / "report.html").read_text()
    assert text.count("<video") == 2
    assert f'<a href="{third.name}">{third.name}</a>' in text
    assert f'href="{first.name}"' not in text


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    section = directions_section(Directions(torch.eye(2)))
    assert "2 directions in a space of 2 latents, of unknown origin" in section
    for absent in ("<img", "<video", "<table", "<h3"):
        assert absent not in section
    directions_page(Directions(torch.eye(2)), tmp_path, "Nothing yet", sheet=None, videos=[])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_pictures_of_an_earlier_search_stay_out(tmp_path: Path) -> None:
    new, old = tmp_path / "direction-000.mp4", tmp_path / "direction-001.mp4"
    new.write_bytes(b"of this search")
    old.write_bytes(b"of an earlier search")
    (tmp_path / "directions.png").write_bytes(b"sheet of an earlier search")
    directions_page(Directions(torch.eye(2)), tmp_path, "Again", sheet=None, videos=[new])
    text = (tmp_path / "report.html").read_text()
    assert base64.b64encode(b"of this search").decode() in text
    assert text.count("<video") == 1
    assert old.name not in text
    assert "<img" not in text


def test_videos_are_shown_in_the_order_given(tmp_path: Path) -> None:
    videos = [tmp_path / "direction-1000.mp4", tmp_path / "direction-999.mp4"]
    for path in videos:
        path.write_bytes(b"video")
    directions_page(Directions(torch.eye(2)), tmp_path, "In order", sheet=None, videos=videos[::-1])
    text = (tmp_path / "report.html").read_text()
    assert text.index(videos[1].name) < text.index(videos[0].name)


def test_provenance_is_escaped() -> None:
    section = directions_section(Directions(torch.eye(2), provenance={"method": "<b>"}))
    assert "<b>" not in section
    assert "&lt;b&gt;" in section
