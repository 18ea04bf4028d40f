"""What training tells the world."""

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
