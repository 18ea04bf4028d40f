"""Pictures, videos and curves while a run trains; needs the extra "training"."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import SummaryWriter

from hessian_penalty.errors import check_number
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.reports.traversal_video import traversal_frames
from hessian_penalty.reports.traversals import MOST_ROWS, traversal_grid
from hessian_penalty.reports.video import write_mp4
from hessian_penalty.runs import RunFolder, atomic_path
from hessian_penalty.training.callbacks import Callback

FRAMES, FRAMES_PER_SECOND = 36, 12  # fewer than a report's: they are made while training waits
LARGEST_ANIMATION = 1200  # pixels high in the events, which hold every frame in full colour


class PictureMonitor(Callback):
    """Writes samples and traversals at every snapshot, and TensorBoard events, into the run folder.

    The latents come from a fixed seed, so the pictures of a run can be compared with each other. TensorBoard's steps
    are real images seen. A resumed run hides what an earlier process wrote beyond the point it resumed from.

    Args:
        run: the run folder.
        seed: of samples and base latents.
        activeness: a quick estimate for a generator, one figure for each latent; orders and labels the traversal
            rows. None keeps the index order.
        video_every: film the traversal too at every so many snapshots of the run, and at its last one; 0 films the last
            one only. A film takes many times as long as the pictures.

    Raises:
        UserError: `video_every` is negative.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        seed: int = 0,
        activeness: Callable[[Generator], Sequence[float]] | None = None,
        video_every: int = 0,
    ) -> None:
        check_number("video_every", video_every, 0)
        self.run, self.seed, self.activeness, self.video_every = run, seed, activeness, video_every
        self._writer: Any = None
        self._finished = False

    def on_step(self, kimg: float, total_kimg: float) -> None:
        """Open the events at the first step of this process: what lies at or after it is an earlier one's."""
        self._open(kimg)
        self._finished = _step(kimg) >= _step(total_kimg)

    def on_log(self, record: dict[str, float]) -> None:
        """Add every figure of the record but kimg, which is the step."""
        self._open(record["kimg"])
        for name, value in record.items():
            if name != "kimg":
                self._writer.add_scalar(f"training/{name}", value, _step(record["kimg"]))

    def on_snapshot(self, run: RunFolder, ema: ProGANGenerator, kimg: float) -> None:
        """Write both pictures as PNG, and the film if it is its turn as MP4; add them to the events."""
        self._open(kimg)
        shown: Any = {
            "activeness": self.activeness(ema) if self.activeness is not None else None,
            "most": MOST_ROWS,
            "seed": self.seed,
        }
        name = run.checkpoint_path(kimg).name
        for tag, folder, picture in (
            ("samples", run.samples_path, sample_sheet(ema, seed=self.seed)),
            ("traversals", run.traversals_path, traversal_grid(ema, **shown)),
        ):
            with atomic_path(folder / f"{name}.png") as temporary:
                picture.save(temporary, optimize=True)
            self._writer.add_image(tag, np.asarray(_on_white(picture)), _step(kimg), dataformats="HWC")
        if self._finished or self._is_turn(run):
            frames = traversal_frames(ema, frames=FRAMES, **shown)
            animation = _write_film(run.traversals_path / f"{name}.mp4", frames)
            self._writer.file_writer.add_summary(_summary("traversals_in_motion", animation), _step(kimg))
        self._writer.flush()

    def close(self) -> None:
        """Write out what is pending; safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, kimg: float) -> None:
        if self._writer is None:
            self._writer = SummaryWriter(str(self.run.path), purge_step=_step(kimg))

    def _is_turn(self, run: RunFolder) -> bool:
        """Whether this snapshot is one to film; the run's earlier ones are counted, whichever process made them."""
        return self.video_every > 0 and len(list(run.traversals_path.glob("kimg-*.png"))) % self.video_every == 0


def _step(kimg: float) -> int:
    return round(kimg * 1000)


def _on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(ground, picture).convert("RGB")


def _write_film(path: Path, frames: Iterable[UInt8[np.ndarray, "height width 3"]]) -> list[Image.Image]:
    """Write an MP4; the frames come back as pictures that are small enough for an animation."""
    kept: list[Image.Image] = []

    def kept_too() -> Iterator[UInt8[np.ndarray, "height width 3"]]:
        for frame in frames:
            kept.append(Image.fromarray(frame).reduce(-(-len(frame) // LARGEST_ANIMATION)))
            yield frame

    write_mp4(path, kept_too(), frames_per_second=FRAMES_PER_SECOND)
    return kept


def _summary(tag: str, frames: Sequence[Image.Image]) -> Summary:
    """An animated PNG as an image of the events: browsers play it as they do a GIF, whose 256 colours lose hues."""
    buffer = io.BytesIO()
    duration = round(1000 / FRAMES_PER_SECOND)
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], duration=duration, loop=0)
    width, height = frames[0].size
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=buffer.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])
