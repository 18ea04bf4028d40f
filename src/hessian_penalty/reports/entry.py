"""What the page knows of a model, and of the models that are compared with each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.grids import png_bytes
from hessian_penalty.reports.samples import sample_sheet
from hessian_penalty.reports.traversal_video import traversal_mp4
from hessian_penalty.reports.traversals import MOST_ROWS, traversal_grid


@dataclass(frozen=True)
class ModelEntry:
    """One model of the page.

    Args:
        name: short and unique within its group.
        description: one sentence: how it was made.
        measures: what `hessian_penalty.metrics.measures.Measures.record` gives, and "kimg": "activeness" (a figure for
            each latent), "hessian" (n × n means of |H_ij|), "effective_latents", "off_diagonal_share", "frechet" and
            its "extractor". A measure may be None or missing.
        samples_png, traversal_png: pictures, as `sample_sheet` and `traversal_grid` make them.
        traversal_mp4: the looping video, or None.
        metrics: records of metrics.jsonl, or None.
        settings: what config.json holds; nested.
        missing: measure → why it is None, in a few words.

    Raises:
        UserError: no name, no latent, or a Hessian that is not square or does not fit the activeness.
    """

    name: str
    description: str
    measures: Mapping[str, Any]
    samples_png: bytes
    traversal_png: bytes
    traversal_mp4: bytes | None = None
    metrics: Sequence[Mapping[str, Any]] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError("A model of the report needs a name, got an empty one.")
        if self.activeness is not None and not self.activeness:
            raise UserError(f"Model {self.name!r}: `activeness` must hold one figure for each latent, got none.")
        if self.hessian is not None:
            count = len(self.activeness) if self.activeness is not None else len(self.hessian)
            if self.hessian.shape != (count, count):
                raise UserError(
                    f"Model {self.name!r}: `hessian` must be {count} x {count}, got shape {self.hessian.shape}."
                )

    @property
    def activeness(self) -> list[float] | None:
        """Activeness of each latent, or None."""
        values = self.measures.get("activeness")
        return None if values is None else [float(value) for value in values]

    @property
    def hessian(self) -> Float[np.ndarray, "..."] | None:
        """Mean |H_ij| as an array, or None."""
        values = self.measures.get("hessian")
        return None if values is None else np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class ModelGroup:
    """Models that stand side by side; the first is the one that the others are compared with.

    Args:
        name: what they have in common, such as the data set.
        entries: the models, named apart.
        description: one sentence, or nothing.

    Raises:
        UserError: no model, or two of one name.
    """

    name: str
    entries: Sequence[ModelEntry]
    description: str = ""

    def __post_init__(self) -> None:
        if not self.entries:
            raise UserError(f"Group {self.name!r} of the report holds no model: give at least one.")
        names = [entry.name for entry in self.entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(
                f"Group {self.name!r} names {', '.join(map(repr, twice))} twice: give each model its own name."
            )


def model_entry(
    generator: Generator,
    name: str,
    description: str,
    measures: Mapping[str, Any],
    *,
    seed: int = 0,
    video: bool = True,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    settings: Mapping[str, Any] | None = None,
    missing: Mapping[str, str] | None = None,
) -> ModelEntry:
    """The entry of a generator, with its pictures and its video made here.

    Args:
        seed: of samples and base latents; the same for models that are compared.
        video: whether to make the video, the longest part.
    """
    activeness = measures.get("activeness")
    shown: Any = {"activeness": activeness, "most": MOST_ROWS, "seed": seed}
    return ModelEntry(
        name=name,
        description=description,
        measures=measures,
        samples_png=png_bytes(sample_sheet(generator, seed=seed)),
        traversal_png=png_bytes(traversal_grid(generator, **shown)),
        traversal_mp4=traversal_mp4(generator, **shown) if video else None,
        metrics=metrics,
        settings=settings or {},
        missing=missing or {},
    )
