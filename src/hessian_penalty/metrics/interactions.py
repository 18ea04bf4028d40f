"""Which latents change what another does at the images: means over the Hessians of a generator, and where they lie."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.penalty.diagonality import Diagonality, EntryMagnitudes
from hessian_penalty.penalty.hessians import HessianEntry, hessian_entries, hessians
from hessian_penalty.penalty.settings import PenaltySettings


class HessianStatistics(NamedTuple):
    """Means over samples and image elements, float64.

    Attributes:
        energy: mean of :math:`H_{ij}^2`, n × n.
        magnitude: mean of :math:`|H_{ij}|`, n × n.
        diagonality: of the elements' Hessians; None for a single latent, which has nothing off the diagonal.
    """

    energy: Float[Tensor, "count count"]
    magnitude: Float[Tensor, "count count"]
    diagonality: Diagonality | None


class PixelHessian(NamedTuple):
    """The Hessian of one image element, and where it lies.

    Attributes:
        image: the sample that it belongs to, (channels, height, width).
        channel, row, column: of the element.
        hessian: |H_ij|, n × n.
    """

    image: Float[Tensor, "channels height width"]
    channel: int
    row: int
    column: int
    hessian: Float[Tensor, "count count"]


class PixelHessians(NamedTuple):
    """The element with the largest off-diagonal penalty of all samples, and a random one."""

    largest: PixelHessian
    random: PixelHessian


def _by_chunk(
    G: Generator, z: Tensor, basis: Tensor | None, epsilon: float, batch_size: int
) -> Iterator[tuple[Tensor, Iterator[HessianEntry]]]:
    """Few latents at a time, with the entries of their Hessians."""
    for chunk in z.split(max(1, batch_size // 4)):
        yield chunk, hessian_entries(G, chunk, epsilon=epsilon, basis=basis, chunk_size=batch_size)


@torch.no_grad()
def hessian_statistics(
    G: Generator,
    z: Float[Tensor, "batch latent"],
    *,
    basis: Float[Tensor, "count latent"] | None = None,
    epsilon: float = PenaltySettings.epsilon,
    batch_size: int = 128,
) -> HessianStatistics:
    r"""Mean of :math:`H_{ij}^2` and of :math:`|H_{ij}|` over samples and image elements, and diagonality, in one pass.

    Finite differences at scale `epsilon`, 2n² + 1 images a sample.

    Args:
        basis: directions to differentiate along, instead of the coordinates.
        batch_size: latents a pass; bounds memory.
    """
    n = z.shape[1] if basis is None else len(basis)
    squares = torch.zeros(n, n, dtype=torch.float64)
    magnitudes = torch.zeros(n, n, dtype=torch.float64)
    fraction, ratio = 0.0, 0.0
    for chunk, entries in _by_chunk(G, z, basis, epsilon, batch_size):
        gathered = EntryMagnitudes()
        for i, j, values in entries:
            flat = values.flatten(1)
            for total, found in ((squares, flat.square()), (magnitudes, flat.abs())):
                total[i, j] += float(found.mean(dim=1).sum(dtype=torch.float64))
                total[j, i] = total[i, j]
            gathered.add(i, j, values)
        if n > 1:
            of_chunk = gathered.diagonality()
            fraction += of_chunk.fraction * len(chunk) / len(z)
            ratio += of_chunk.ratio * len(chunk) / len(z)
    return HessianStatistics(
        squares / len(z), magnitudes / len(z), Diagonality(fraction, ratio) if n > 1 else None
    )  # fmt: skip


@torch.no_grad()
def element_penalties(
    G: Generator, z: Float[Tensor, "batch latent"], *, epsilon: float = PenaltySettings.epsilon, batch_size: int = 128
) -> Float[Tensor, "batch channels height width"]:
    r"""Off-diagonal penalty of every image element, :math:`L_H(p) = \sum_{i \ne j} H_{ij}^2`, on the CPU.

    Exact up to the scale `epsilon` of the differences: the penalty over all signs, not an estimate from a few.

    Args:
        batch_size: latents a pass; bounds memory.

    Raises:
        UserError: a single latent, which has nothing off the diagonal.
    """
    if z.shape[1] == 1:
        raise UserError(
            "A generator of one latent has no penalty: no other latent is there whose effect it could alter."
        )
    found = []
    for _, entries in _by_chunk(G, z, None, epsilon, batch_size):
        found.append(sum(2 * values.square() for i, j, values in entries if i != j))
    return torch.cat([torch.as_tensor(of_chunk).cpu() for of_chunk in found])


@torch.no_grad()
def pixel_hessians(
    G: Generator,
    z: Float[Tensor, "batch latent"],
    *,
    seed: int = 0,
    penalties: Float[Tensor, "batch channels height width"] | None = None,
    epsilon: float = PenaltySettings.epsilon,
    batch_size: int = 128,
) -> PixelHessians:
    r"""Whole :math:`|H|` of two image elements: the one with the largest penalty, and one chosen by chance.

    Args:
        seed: of the random element, which is the same for all generators of one image size.
        penalties: what `element_penalties` gives at z, where it is known already; it takes nearly all the time.
        epsilon: step of the differences.
        batch_size: latents a pass; bounds memory.

    Raises:
        UserError: as of `element_penalties`.
    """
    if penalties is None:
        penalties = element_penalties(G, z, epsilon=epsilon, batch_size=batch_size)
    chance = int(np.random.default_rng(seed).integers(penalties.numel()))

    def at(index: int) -> PixelHessian:
        sample, channel, row, column = (int(place) for place in np.unravel_index(index, tuple(penalties.shape)))
        latent = z[sample : sample + 1]

        def element(points: Tensor) -> Tensor:
            return G(points)[:, channel, row, column]

        matrix = hessians(element, latent, epsilon=epsilon, chunk_size=batch_size)[0].abs()
        return PixelHessian(G(latent)[0].cpu(), channel, row, column, matrix.cpu())

    return PixelHessians(at(int(penalties.argmax())), at(chance))
