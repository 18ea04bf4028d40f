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
