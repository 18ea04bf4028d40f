"""What the penalties of this package have in common: a variance over probes of differences between corners."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.penalty.evaluation import Passes


class Form(ABC):
    r"""Which corners a penalty takes around z, and what it makes of G's outputs there.

    Attributes:
        scale_power: p, where the penalty of $c\,G$ is $c^{2p}$ times that of G.
        known_corner: which corner is z itself, where G(z) is known.
    """

    scale_power: ClassVar[int]
    known_corner: ClassVar[int]

    @abstractmethod
    def points(
        self, z: Float[Tensor, "batch *latent"], steps: Float[Tensor, "k batch *latent"], *, known: bool
    ) -> Float[Tensor, "corners batch *latent"]:
        """Return the corners; with `known`, one of them is z."""

    @abstractmethod
    def gather(self, corners: Iterator[list[Tensor]], k: int) -> list[list[Tensor]]:
        """Return for every output what the penalty needs of its values at all corners, which are read one at a time."""

    @abstractmethod
    def elements(self, gathered: list[Tensor], epsilon: float) -> Float[Tensor, "batch *element"]:
        """Return the penalties of the elements of one output."""

    @abstractmethod
    def rounding(self, corners: list[Tensor], epsilon: float) -> float:
        """Return by how much rounding moves the root of an element's penalty, given one output at two corners."""


@dataclass(frozen=True)
class Corners:
    """The corners of one call.

    Attributes:
        form: of the penalty.
        passes: through G.
        points: latents, one of which is z itself where `known` is given.
        k: number of probes.
        epsilon: step.
        known: G's outputs at z, if it has been evaluated there.
        groups: of components, one of which each sample steps in: penalties are multiplied by it.
    """

    form: Form
    passes: Passes
    points: Float[Tensor, "corners batch *latent"]
    k: int
    epsilon: float
    known: list[Tensor] | None = None
    groups: int = 1

    def elements(self, gathered: list[Tensor]) -> Float[Tensor, "batch *element"]:
        """Return the penalties of the elements of one output."""
        elements = self.form.elements(gathered, self.epsilon)
        return elements if self.groups == 1 else self.groups * elements

    def rounding(self, outputs: list[Tensor]) -> float:
        """Return by how much rounding moves the root of an element's penalty, given one output at two corners."""
        return float(self.groups**0.5 * self.form.rounding(outputs, self.epsilon))

    def outputs(
        self,
        *,
        chunk_size: int | None,
        rows: Tensor | None = None,
        most_outputs: int | None = None,
        require_function: bool = False,
    ) -> Iterator[list[Tensor]]:
        """Yield G's outputs at each corner, in order, for some rows of the batch or all; see `Passes.at`."""
        points, at = self.points if rows is None else self.points[:, rows], self.form.known_corner
        if self.known is not None:
            points = torch.cat((points[:at], points[at + 1 :]))
        found = self.passes.at(
            points, chunk_size=chunk_size, rows=rows, most_outputs=most_outputs, require_function=require_function
        )
        if self.known is not None:
            yield from islice(found, at)
            yield [output if rows is None else output[rows] for output in self.known[:most_outputs]]
        yield from found
