"""Layers with an equalised learning rate: weights of unit variance, scaled at run time (ProGAN paper, §4.1)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class EqualizedLinear(nn.Module):
    r"""Dense layer :math:`y = c W x + b` with :math:`W_{ij} \sim N(0, 1)` at the start and `c = gain / sqrt(fan_in)`.

    Every weight has the same dynamic range, so that Adam, which is invariant to a gradient's scale, learns all
    layers at one speed.

    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, §4.1.
    """

    def __init__(self, in_features: int, out_features: int, *, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = gain / math.sqrt(in_features)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch out"]:
        return F.linear(x, self.weight * self.scale, self.bias)


class EqualizedConv2d(nn.Module):
    """Convolution with the same rule as `EqualizedLinear`; odd kernel, "same" padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.scale = gain / math.sqrt(in_channels * kernel**2)
        self.padding = kernel // 2

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height width"]:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


def _mean_of_shifts(kernel: Float[Tensor, "a b 3 3"]) -> Float[Tensor, "a b 4 4"]:
    """The mean of the kernel's four placements on 4×4: what it sees of doubled or averaged pixels."""
    return F.avg_pool2d(kernel, 2, stride=1, padding=1)


class EqualizedUpConv2d(EqualizedConv2d):
    """Nearest-neighbour doubling and a 3×3 `EqualizedConv2d` in one: (N, C, H, W) → (N, out, 2H, 2W).

    A transposed convolution of stride 2, whose 4×4 kernel is the sum of the 3×3 kernel's four shifts: 16 products for
    an input pixel and pair of channels instead of 36, the same result to rounding, the same parameters. It pays on a
    CPU where the batch has more than some 500 input pixels (benchmarks/fused_scaling.py).

    Source: the fused scaling of Karras et al.'s ProGAN.

    >>> EqualizedUpConv2d(8, 4)(torch.zeros(2, 8, 5, 3)).shape
    torch.Size([2, 4, 10, 6])
    """

    def __init__(self, in_channels: int, out_channels: int, *, gain: float = math.sqrt(2)) -> None:
        super().__init__(in_channels, out_channels, 3, gain=gain)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        kernel = (self.weight * (4 * self.scale)).transpose(0, 1).flip(2, 3)  # (C, out, 3, 3)
        kernel = kernel.contiguous(memory_format=torch.channels_last)  # up to 2 times faster
        return F.conv_transpose2d(x, _mean_of_shifts(kernel), self.bias, stride=2, padding=1)


class EqualizedDownConv2d(EqualizedConv2d):
    """A 3×3 `EqualizedConv2d` and 2×2 averaging in one: (N, C, H, W) → (N, out, H // 2, W // 2).

    A convolution of stride 2, whose 4×4 kernel is the mean of the 3×3 kernel's four shifts: 16 products for an output
    pixel and pair of channels instead of 36, the same result to rounding, the same parameters.

    Source: as `EqualizedUpConv2d`.

    >>> EqualizedDownConv2d(8, 4)(torch.zeros(2, 8, 10, 7)).shape
    torch.Size([2, 4, 5, 3])
    """

    def __init__(self, in_channels: int, out_channels: int, *, gain: float = math.sqrt(2)) -> None:
        super().__init__(in_channels, out_channels, 3, gain=gain)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        return F.conv2d(x, _mean_of_shifts(self.weight * self.scale), self.bias, stride=2, padding=1)
