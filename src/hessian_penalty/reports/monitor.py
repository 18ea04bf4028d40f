"""Pictures and curves while a run trains; needs the extra "training"."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.reports.traversals import MOST_ROWS, traversal_grid
from hessian_penalty.runs import RunFolder, atomic_path
from hessian_penalty.training.callbacks import Callback


class PictureMonitor(Callback):
    """Writes samples and traversals at every snapshot, and TensorBoard events, into the run folder.

    The latents come from a fixed seed, so the pictures of a run can be compared with each other. TensorBoard's steps
    are real images seen. A resumed run hides what an earlier process wrote beyond the point it resumed from.

    Args:
        run: the run folder.
        seed: of samples and base latents.
        activeness: a quick estimate for a generator, one figure for each latent; orders and labels the traversal
            rows. None keeps the index order.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        seed: int = 0,
        activeness: Callable[[Generator], Sequence[float]] | None = None,
    ) -> None:
        self.run, self.seed, self.activeness = run, seed, activeness
        self._writer: Any = None

    def on_step(self, kimg: float, total_kimg: float) -> None:
        """Open the events at the first step of this process: what lies at or after it is an earlier one's."""
        if self._writer is None:
            self._writer = SummaryWriter(str(self.run.path), purge_step=_step(kimg))

    def on_log(self, record: dict[str, float]) -> None:
        """Add every figure of the record but kimg, which is the step."""
        self.on_step(record["kimg"], 0.0)
        for name, value in record.items():
            if name != "kimg":
                self._writer.add_scalar(f"training/{name}", value, _step(record["kimg"]))

    def on_snapshot(self, run: RunFolder, ema: ProGANGenerator, kimg: float) -> None:
        """Write both pictures as PNG and add them to the events."""
        self.on_step(kimg, 0.0)
        estimate = self.activeness(ema) if self.activeness is not None else None
        samples = sample_sheet(ema, seed=self.seed)
        traversals = traversal_grid(ema, activeness=estimate, most=MOST_ROWS, seed=self.seed)
        for name, folder, picture in (
            ("samples", run.samples_path, samples),
            ("traversals", run.traversals_path, traversals),
        ):
            with atomic_path(folder / f"{run.checkpoint_path(kimg).name}.png") as temporary:
                picture.save(temporary, optimize=True)
            self._writer.add_image(name, np.asarray(_on_white(picture)), _step(kimg), dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write out what is pending; safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _step(kimg: float) -> int:
    return round(kimg * 1000)


def _on_white(picture: Image.Image) -> Image.Image:
    ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(ground, picture).convert("RGB")
