"""The maximum over all processes of a data-parallel training, so that the loss does not depend on their number."""

import torch
import torch.distributed as dist
from torch import Tensor


def maxima_over_processes(maxima: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Return, in every process, the largest of each maximum; only the process that holds it gets the gradient.

    Data-parallel training averages gradients over processes, so that gradient is taken times their number.
    """
    processes = dist.get_world_size(group)
    here = torch.stack([maximum.detach() for maximum in maxima])
    everywhere = [torch.empty_like(here) for _ in range(processes)]
    dist.all_gather(everywhere, here, group=group)
    largest, owner = torch.stack(everywhere).max(dim=0)
    factors = processes * (owner == dist.get_rank(group)).to(here)
    # The value is that of the largest; the gradient is `factor` times that of the maximum here.
    return [
        top + factor * (maximum - maximum.detach())
        for maximum, top, factor in zip(maxima, largest.unbind(), factors.unbind(), strict=True)
    ]


def average_over_processes(gradients: list[Tensor], group: dist.ProcessGroup) -> list[Tensor]:
    """Return the mean over all processes of each gradient, as data-parallel training takes it."""
    averages = [gradient.clone() for gradient in gradients]
    for average in averages:
        dist.all_reduce(average, group=group)
        average /= dist.get_world_size(group)
    return averages
