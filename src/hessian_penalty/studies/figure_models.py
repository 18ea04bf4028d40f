"""The runs that figures show: their generators, and what is measured for their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hessian_penalty.errors import LARGEST_SEED, check_number
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.metrics.interactions import PixelHessians, element_penalties, pixel_hessians
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.reports.figure_style import model_color
from hessian_penalty.reports.penalty_map_figure import MOST_SAMPLES, PenaltyMap
from hessian_penalty.reports.samples import generate, seeded_latents
from hessian_penalty.reports.traversals import by_activeness
from hessian_penalty.runs import RunFolder
from hessian_penalty.studies.comparison import named_runs
from hessian_penalty.studies.evaluation import Evaluator, kept_audit


@dataclass(frozen=True)
class FigureSettings:
    """What the figures are made from.

    Args:
        seed: of pictures and latents; the same for all runs.
        samples: latents at which Hessians are taken.
        frames: of the looping video; 0 leaves it out.
        batch_size: latents a pass; bounds memory.
    """

    seed: int = 0
    samples: int = MeasureProtocol.hessian_samples
    frames: int = 90
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_number("seed", self.seed, 0, LARGEST_SEED)
        check_number("samples", self.samples, 2)
        check_number("batch_size", self.batch_size, 2)
        if self.frames:
            check_number("frames", self.frames, 2)


@dataclass
class FigureModel:
    """A run with what its figures show.

    Args:
        name: short and unique.
        audit: the factor audit of its measures.json, or None.
        activeness, hessian: as `Measures` has them.
        heat, pixels: penalties of pixels, and Hessians of single ones; None for a single latent.
    """

    name: str
    run: RunFolder
    generator: ProGANGenerator
    color: str
    audit: Mapping[str, Any] | None
    activeness: Sequence[float] = ()
    hessian: Any = field(default_factory=lambda: np.zeros((0, 0)))
    heat: PenaltyMap | None = None
    pixels: PixelHessians | None = None

    @property
    def order(self) -> list[int]:
        """Latents, the most active first."""
        return by_activeness(self.activeness)

    def measure(self, settings: FigureSettings) -> None:
        """Activeness and mean Hessians: those of measures.json where they are of this protocol."""
        protocol = MeasureProtocol(hessian_samples=settings.samples, batch_size=settings.batch_size, seed=settings.seed)
        found = Evaluator(protocol, None)(self.run, parts=("activeness", "Hessians"))
        self.activeness, self.hessian = list(found.activeness), np.array(found.hessian)

    def take_penalties(self, settings: FigureSettings) -> None:
        """Penalties of the pixels of the first few samples, and the Hessians of two pixels of all of them."""
        if self.generator.latent_dim < 2:
            return
        z = seeded_latents(self.generator, settings.samples, settings.seed)
        penalties = element_penalties(self.generator, z, batch_size=settings.batch_size)
        self.pixels = pixel_hessians(
            self.generator, z, seed=settings.seed, penalties=penalties, batch_size=settings.batch_size
        )
        self.heat = PenaltyMap(generate(self.generator, z[:MOST_SAMPLES]), penalties[:MOST_SAMPLES].mean(dim=1))


def open_models(runs: Sequence[RunFolder]) -> list[FigureModel]:
    """The runs with names and colours.

    Raises:
        UserError: no run, one given twice or without checkpoint.
    """
    return [
        FigureModel(name.strip("/"), run, load_generator(run), model_color(index), kept_audit(run))
        for index, (name, run) in enumerate(named_runs(runs).items())
    ]
