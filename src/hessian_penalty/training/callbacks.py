"""What training tells the world."""

from collections.abc import Callable

from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.runs import RunFolder


class Callback:
    """What training tells the world; override what you need."""

    def on_step(self, kimg: float, total_kimg: float) -> None:
        """After every step."""

    def on_log(self, record: dict[str, float]) -> None:
        """After every record in metrics.jsonl."""

    def on_snapshot(self, run: RunFolder, ema: ProGANGenerator, kimg: float) -> None:
        """After every checkpoint."""


class LiveProgress(Callback):
    """Feeds a progress bar: kimg of the total, and the newest record's figures beside it.

    Args:
        update: takes (done, total, note).
    """

    def __init__(self, update: Callable[..., None]) -> None:
        self._update, self._note = update, ""

    def on_step(self, kimg: float, total_kimg: float) -> None:
        self._update(kimg, total_kimg, self._note)

    def on_log(self, record: dict[str, float]) -> None:
        shown = {
            "img/s": "images_per_second",
            "D": "critic_loss",
            "G": "generator_loss",
            "penalty": "penalty",
            "weight": "penalty_weight",
        }
        self._note = "  ".join(f"{label} {record[key]:.3g}" for label, key in shown.items() if key in record)

    def on_snapshot(self, run: RunFolder, ema: ProGANGenerator, kimg: float) -> None:
        self._note += f"  saved at {kimg:g} kimg"
