"""Kernel distance between the features of generated and real images: no Gaussian fit, and unbiased."""

import warnings
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError, check_number
from hessian_penalty.metrics.frechet import AsTheyAre, check_features


class KernelDistance(NamedTuple):
    """Mean and standard deviation over random subsets, and their size."""

    mean: float
    std: float
    subset_size: int


def kernel_distance(
    generated: Float[Tensor, "images features"],
    reference: Float[Tensor, "others of_these"],
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> KernelDistance:
    r"""Squared maximum mean discrepancy with the kernel :math:`(x^T y / F + 1)^3`, unbiased.

    The mean over random subsets of both sets, each without replacement (one subset where it is all of both, with a
    deviation of 0); for two samples of one distribution it lies around 0 and may be negative. With the features of
    Inception-v3 it is the KID. The algebra is torchmetrics', in float64.

    Source: Bińkowski et al., "Demystifying MMD GANs", ICLR 2018.

    Args:
        subsets: pairs of subsets.
        subset_size: images of each; all there are where they are fewer.
        seed: of the subsets.

    Raises:
        UserError: that of `check_features`, a number below its least, or torchmetrics is not installed.
    """
    check_features(generated, reference, "A kernel distance")
    check_number("subsets", subsets, 1)
    check_number("subset_size", subset_size, 2)
    try:
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError:
        raise UserError("The kernel distance needs torchmetrics: pip install 'hessian-penalty[features]'.") from None
    size = min(subset_size, len(generated), len(reference))
    if size == len(generated) == len(reference):
        subsets = 1
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # torchmetrics tells that it keeps the features, which are here already
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed an accelerator's too
        metric = KernelInceptionDistance(feature=AsTheyAre(generated.shape[1]), subsets=subsets, subset_size=size)
        metric.update(reference.double(), real=True)
        metric.update(generated.double(), real=False)
        mean, std = metric.compute()
    return KernelDistance(float(mean), float(std), size)
