import math
import weakref
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import UserError
from hessian_penalty.reports import grids
from hessian_penalty.reports.direction_video import direction_frames, direction_video, direction_videos
from hessian_penalty.reports.grids import images_uint8

DIRECTIONS = Directions(torch.eye(3))


class Counting:
    """Images (N, 3, 8, 8) of 20 latents, and the largest batch."""

    latent_dim = 20

    def __init__(self) -> None:
        self.largest = 0
        self.seen: list[Tensor] = []

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, self.latent_dim, generator=rng)

    def __call__(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.largest = max(self.largest, len(z))
        self.seen.append(z)
        shade = z[:, 0] if labels is None else labels / 10
        return shade[:, None, None, None].expand(-1, 3, 8, 8)


def decode(path: Path) -> tuple[Any, np.ndarray]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return {"codec": stream.codec_context.name, "rate": stream.average_rate}, frames.astype(int)


def test_every_frame_places_every_picture_on_the_direction() -> None:
    G = Counting()
    square = torch.randn(20, 20, generator=torch.Generator().manual_seed(3))
    directions = Directions(torch.linalg.qr(square)[0])
    list(direction_frames(G, directions, [5, 2], samples=3, frames=8, extent=2.5))
    z = torch.cat(G.seen).unflatten(0, (8, 2, 3))
    for frame in range(8):
        position = -2.5 * math.cos(2 * math.pi * frame / 8)
        for row, index in enumerate([5, 2]):
            assert (z[frame, row] @ directions.matrix[index] - position).abs().max() < 1e-5
    rest = z @ torch.cat([directions.matrix[:2], directions.matrix[3:5], directions.matrix[6:]]).T
    assert (rest - rest[:1, :1]).abs().max() < 1e-5, "all else stays"


def test_the_loop_has_no_seam(square: Any) -> None:
    frames = np.stack(list(direction_frames(square, DIRECTIONS, frames=12, samples=2))).astype(int)
    assert (frames[1:] == frames[:0:-1]).all(), "the way back is the way there, and the last is the first's neighbour"
    assert (frames[0] != frames[6]).any()


def test_rows_are_directions_and_columns_pictures(square: Any) -> None:
    frames = np.stack(list(direction_frames(square, DIRECTIONS, [2, 0], frames=4, samples=2)))
    shown = frames[:, :, -130:]
    assert (shown[:, :64] == shown[:1, :64]).all(), "z2 does nothing"
    assert (shown[0, 66:130] != shown[2, 66:130]).any(), "z0 moves"
    assert (shown[0, :, :64] != shown[0, :, 66:]).any(), "the pictures differ"


def test_the_file_is_h264_of_even_size_and_loops(square: Any, tmp_path: Path) -> None:
    path = tmp_path / "direction.mp4"
    direction_video(square, DIRECTIONS, path, [0], frames=6, samples=1, fps=24)
    facts, frames = decode(path)
    assert facts == {"codec": "h264", "rate": 24}
    source = next(direction_frames(square, DIRECTIONS, [0], frames=6, samples=1))
    assert frames.shape == (6, *source.shape)
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0
    assert np.abs(frames[-1] - frames[1]).mean() < 3


@pytest.mark.parametrize(("height", "width"), [(65, 67), (64, 65)])
def test_odd_images_make_even_frames(height: int, width: int) -> None:
    def G(z: Tensor) -> Tensor:
        return z[:, :1, None, None].expand(-1, 1, height, width)

    frame = next(direction_frames(G, DIRECTIONS, [0], samples=1))
    assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0


def test_many_directions_are_split_into_files(tmp_path: Path) -> None:
    G = Counting()
    calls: list[tuple[int, int]] = []
    directions = Directions(torch.eye(20))
    paths = direction_videos(
        G, directions, tmp_path / "videos", frames=3, samples=3, batch_size=5,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert [path.name for path in paths] == ["directions-000-011.mp4", "directions-012-019.mp4"]
    assert sorted((tmp_path / "videos").iterdir()) == paths
    assert calls == [(done, 6) for done in range(1, 7)]
    assert G.largest <= 5
    second = decode(paths[1])[1]
    alone = list(direction_frames(G, directions, range(12, 20), frames=3, samples=3))
    assert second.shape == (3, *alone[0].shape)
    assert np.abs(second[0] - alone[0]).mean() < 3, "the same pictures in every file"


def test_one_file_a_direction(square: Any, tmp_path: Path) -> None:
    paths = direction_videos(square, DIRECTIONS, tmp_path, indices=[2, 0], rows=1, frames=2, samples=1)
    assert [path.name for path in paths] == ["direction-002.mp4", "direction-000.mp4"]


def test_frames_and_images_are_not_kept() -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def G(z: Tensor) -> Tensor:
        nonlocal most
        images = z[:, :1, None, None].repeat(1, 1, 64, 64)
        alive.append(weakref.ref(images))
        most = max(most, sum(reference() is not None for reference in alive))
        return images

    frames = direction_frames(G, Directions(torch.eye(16)), frames=20, samples=4, batch_size=8)
    held: list[weakref.ref[Any]] = []
    for frame in frames:
        held.append(weakref.ref(frame))
        assert sum(reference() is not None for reference in held) <= 2
    assert len(held) == 20
    assert len(alive) == 20 * 8
    assert most <= 3, "passes of the generator, not rows of the frame"


def test_of_a_frame_in_the_making_only_a_row_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[weakref.ref[Any]] = []
    most = 0

    def spy(images: Tensor) -> np.ndarray:
        nonlocal most
        rows.append(weakref.ref(images))
        most = max(most, sum(reference() is not None for reference in rows))
        return images_uint8(images)

    monkeypatch.setattr(grids, "images_uint8", spy)
    list(direction_frames(Counting(), Directions(torch.eye(20)), frames=3, batch_size=4))
    assert len(rows) == 3 * 20
    assert most <= 3, "the first row, from which the layout was made, the last one and the present one"


def test_conditions_follow_the_samples() -> None:
    labels = torch.tensor([-10.0, 0.0, 10.0])
    frame = next(direction_frames(Counting(), Directions(torch.eye(20)), samples=3, batch_size=2, labels=labels))
    shown = frame[:, -3 * 66 + 2 :, 0]
    for column, value in enumerate([0, 128, 255]):
        assert (shown[:64, column * 66 : column * 66 + 64] == value).all()
        assert (shown[-64:, column * 66 : column * 66 + 64] == value).all()


def test_helpful_errors(square: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"each in \[0, 2\], got \[7\]"):
        direction_video(square, DIRECTIONS, tmp_path / "a.mp4", [7])
    with pytest.raises(UserError, match=r"each in \[0, 2\], got none"):
        direction_videos(square, DIRECTIONS, tmp_path, indices=[])
    for make in (direction_frames, lambda *a, **o: direction_videos(*a, tmp_path, **o)):
        with pytest.raises(UserError, match="frames must be a finite number at least 2, got 1"):
            make(square, DIRECTIONS, frames=1)
        with pytest.raises(UserError, match="`extent` must be a positive number, half the length of the way, got -1"):
            make(square, DIRECTIONS, extent=-1.0)
    with pytest.raises(UserError, match="rows must be a finite number at least 1, got 0"):
        direction_videos(square, DIRECTIONS, tmp_path, rows=0)
    for make in (direction_video, direction_videos):
        with pytest.raises(UserError, match="fps must be a finite number at least 1, got 0"):
            make(square, DIRECTIONS, tmp_path / "a.mp4", fps=0)
    assert list(tmp_path.iterdir()) == []
