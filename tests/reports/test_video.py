import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.reports.direction_video import GROUND, LABEL_INK, swing
from hessian_penalty.reports.grids import GridPainter
from hessian_penalty.reports.samples import generate, seeded_latents
from hessian_penalty.reports.traversal_video import traversal_frames, traversal_mp4
from hessian_penalty.reports.video import write_mp4


def decode(path: Path) -> tuple[Any, np.ndarray]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        facts = {"codec": stream.codec_context.name, "format": stream.pix_fmt, "rate": stream.average_rate}
        return facts, frames.astype(int)


def test_the_video_is_h264_with_the_frames_and_size_asked_for(square: Any, tmp_path: Path) -> None:
    path = tmp_path / "traversal.mp4"
    path.write_bytes(traversal_mp4(square, frames=12, samples=2))
    facts, frames = decode(path)
    source = list(traversal_frames(square, frames=12, samples=2))
    assert facts["codec"] == "h264"
    assert facts["format"] == "yuv420p"
    assert facts["rate"] == 30
    assert frames.shape == (12, *source[0].shape)
    assert frames.shape[1] % 2 == frames.shape[2] % 2 == 0


def test_a_traversal_is_the_latents_themselves_set_one_after_the_other(square: Any) -> None:
    bases = seeded_latents(square, 2, seed=5)
    labels = ["z1\n0.200", "z0\n0.100"]
    painter = GridPainter(2, 2, 16, 16, row_labels=labels, background=GROUND, ink=LABEL_INK, even=True)
    made = traversal_frames(square, activeness=[0.1, 0.2, 0.0], most=2, seed=5, samples=2, frames=8)
    for value, frame in zip([-2, -(2**0.5), 0, 2**0.5, 2, 2**0.5, 0, -(2**0.5)], made, strict=True):
        moved = bases.repeat(2, 1, 1)
        moved[0, :, 1] = moved[1, :, 0] = value
        expected = painter.paint_array(generate(square, moved))
        assert np.abs(frame.astype(int) - expected).max() <= 1


def test_the_loop_has_no_seam(square: Any, tmp_path: Path) -> None:
    frames = np.stack(list(traversal_frames(square, frames=12, samples=2))).astype(int)
    assert (frames[1:] == frames[:0:-1]).all(), "the way back is the way there"
    path = tmp_path / "traversal.mp4"
    path.write_bytes(traversal_mp4(square, frames=12, samples=2))
    decoded = decode(path)[1]
    assert np.abs(decoded[-1] - decoded[1]).mean() < 3, "the last frame is as far from the first as the second is"


def test_time_moves_smoothly_through_the_seam() -> None:
    values = np.array([swing(frame, 90, 2.0) for frame in range(-3, 94)])
    assert values.min() == -2
    assert values.max() == 2
    assert np.abs(np.diff(values)).max() <= 2 * 2 * np.pi / 90 + 1e-9  # amplitude times angular step
    assert np.abs(np.diff(values, 2)).max() <= 2 * (2 * np.pi / 90) ** 2 + 1e-9


def test_rows_are_latents_and_columns_are_pictures(square: Any) -> None:
    frames = np.stack(list(traversal_frames(square, frames=4, samples=2, activeness=[0.1, 0.0, 0.2])))
    tiles = frames[:, :, -130:]  # two columns of 64 pixels
    assert (tiles[:, :64] == tiles[:1, :64]).all(), "z2, said to be the most active, does nothing"
    assert (tiles[0, 66:130] != tiles[2, 66:130]).any(), "z0 moves"
    assert (tiles[0, :, :64] != tiles[0, :, 66:]).any(), "the columns start from different latents"


def test_frames_are_not_kept(tmp_path: Path) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal most
        for value in range(40):
            frame = np.full((32, 32, 3), value, np.uint8)
            alive.append(weakref.ref(frame))
            most = max(most, sum(reference() is not None for reference in alive))
            yield frame

    write_mp4(tmp_path / "a.mp4", frames())
    assert most <= 3
    assert len(decode(tmp_path / "a.mp4")[1]) == 40


def test_colours_survive(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 160, 40), (20, 40, 200), (128, 128, 128)]
    frame = np.concatenate([np.full((32, 32, 3), colour, np.uint8) for colour in colours], axis=1)
    write_mp4(tmp_path / "a.mp4", [frame] * 3)
    decoded = decode(tmp_path / "a.mp4")[1][1]
    for place, colour in enumerate(colours):
        assert np.abs(decoded[16, 32 * place + 16] - colour).max() <= 6
    with av.open(tmp_path / "a.mp4") as container:
        assert container.streams.video[0].codec_context.colorspace == 1  # BT.709


def test_the_index_comes_first(square: Any) -> None:
    content = traversal_mp4(square, frames=2, samples=1)
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_a_failure_leaves_the_old_video(square: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match="at least one frame, got none"):
        write_mp4(path, [])
    with pytest.raises(UserError, match="even width and height, got 33x32"):
        write_mp4(path, [np.zeros((32, 33, 3), np.uint8)])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_helpful_errors(square: Any) -> None:
    with pytest.raises(UserError, match="frames must be a finite number at least 2, got 1"):
        traversal_frames(square, frames=1)
    with pytest.raises(UserError, match="one figure for each of the 3 latents, got 2"):
        traversal_frames(square, activeness=[0.1, 0.2])
