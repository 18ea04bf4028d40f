"""Level of detail: how far a network that grows progressively has grown."""

import math
from typing import Any

import torch
from torch import Tensor, nn


class Growing(nn.Module):
    """A network of levels, of which those below `lod` do not run yet.

    Level l works on images of resolution / 2^l pixels. At a whole `lod` the network is the one that ends at that level;
    between l and l + 1 the level l fades in, with the weight 1 - (lod - l). The value is part of the state, so that a
    checkpoint is loaded as far grown as it was saved.

    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, fig. 2.

    Args:
        levels: number of levels.
        grows: whether `lod` can be anything but 0; a network that cannot has nothing more in its state.
    """

    level_of_detail: Tensor | None

    def __init__(self, levels: int, grows: bool) -> None:
        super().__init__()
        self.levels = levels
        self.register_buffer("level_of_detail", torch.zeros(()) if grows else None)
        self._lod = 0.0  # the same number where it can be read without waiting for a device

    @property
    def lod(self) -> float:
        """Level of detail, from `levels` - 1 (the smallest images) down to 0 (full resolution).

        Raises:
            ValueError: when set out of range, or to anything but 0 in a network that does not grow.
        """
        return self._lod

    @lod.setter
    def lod(self, value: float) -> None:
        if not 0 <= value <= self.levels - 1:
            raise ValueError(f"`lod` must lie in [0, {self.levels - 1}], got {value}.")
        if self.level_of_detail is not None:
            self.level_of_detail.fill_(value)
        elif value != 0:
            raise ValueError(f"`lod` of a network that does not grow is 0, got {value}; build it with `grows`.")
        self._lod = float(value)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        super()._load_from_state_dict(*arguments, **options)
        self._lod = 0.0 if self.level_of_detail is None else float(self.level_of_detail)

    @property
    def level(self) -> tuple[int, float]:
        """The highest level that runs, and the share of the level below in what it shows: 0 once it is faded in."""
        lod = self.lod
        level = math.floor(lod)
        return level, lod - level


def fade_in(level: int, lod: float) -> float:
    r"""Weight of a level's output, and of its penalty: :math:`\min(\max(l + 1 - lod, 0), 1)`.

    >>> [fade_in(2, lod) for lod in (3.5, 3.0, 2.25, 2.0, 0.0)]
    [0.0, 0.0, 0.75, 1.0, 1.0]
    """
    return min(max(level + 1 - lod, 0.0), 1.0)
