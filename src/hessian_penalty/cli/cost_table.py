"""What a run would cost, as text."""

from rich.console import Console
from rich.table import Column, Table

from hessian_penalty.training.arithmetic import GPUS, UTILISATION
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.estimate import Estimate, Stage

HEADS = ("size", "kimg", "batch", "images/s", "timed on", "time", "GiB", "PFLOP")
TIGHT = 0.75  # share of a memory beyond which what is not counted, up to a third more, may not fit


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{_number(seconds)} s"
    return f"{_number(seconds / 3600)} h" if seconds >= 3600 else f"{_number(seconds / 60)} min"


def _stage_row(stage: Stage) -> tuple[str, ...]:
    measured = f"{stage.measured_batch:,}" if stage.measured_batch != stage.batch_size else "all"
    return (
        f"{stage.resolution} px", f"{stage.kimg:,g}", f"{stage.batch_size:,}", _number(stage.images_per_second),
        measured, _time(stage.seconds), f"{'' if stage.memory_measured else '~'}{stage.peak_bytes / 2**30:.2f}",
        _number(stage.flop / 1e15),
    )  # fmt: skip


def print_cost(training: TrainingConfig, found: Estimate) -> None:
    """Print the cost of a run: here by resolution, and on some GPUs by arithmetic."""
    print(
        f"{training.total_kimg:g} kimg at {training.generator.resolution} pixels on {found.device}: "
        f"{_time(found.seconds)}, {found.peak_bytes / 2**30:.2f} GiB peak memory"
    )
    print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in found.parameters.items()))
    console = Console()
    here = Table(*(Column(name, no_wrap=True) for name in HEADS))
    for stage in found.stages:
        here.add_row(*_stage_row(stage))
    console.print(here)
    print(
        "Each size from its fading in, timed once faded in, at the penalty's full weight. Where the timed batch is\n"
        "smaller, operations a second are taken to be the same for the whole one. Memory after ~ is counted: tensors\n"
        "alive at the peak, with gradients, Adam's moments and activations, but not the convolutions' scratch space."
    )
    console.print()
    elsewhere = Table("one GPU", "float32 peak", "time", "memory")
    for gpu in GPUS:
        share = found.peak_bytes / (gpu.gigabytes * 1e9)
        fit = ": too little for this batch" if share > 1 else ": tight" if share > TIGHT else ""
        elsewhere.add_row(
            gpu.name, f"{gpu.teraflops:g} TFLOPS", _time(3600 * gpu.hours(found.flop)), f"{gpu.gigabytes} GB{fit}"
        )
    console.print(elsewhere)
    print(
        f"By arithmetic, not measured: {_number(found.flop / 1e15)} PFLOP at {UTILISATION:.0%} of the dense float32 "
        "peak\n(no TF32, which the penalty cannot use). Small networks and batches reach less."
    )
