"""The ProGAN generator and critic, written from Karras et al., "Progressive Growing of GANs", ICLR 2018.

Fixed resolution: every block runs. Layers are counted as in the Hessian Penalty paper: two normalised activations a
block, `blocks.<b>.norm0` and `blocks.<b>.norm1`, then the image; 13 layers at 128 pixels.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.equalized import EqualizedConv2d, EqualizedLinear

FIRST_LINEAR_WEIGHT = "blocks.0.dense.weight"  # the parameter that reads the latents


def published_channels(resolution: int, *, base: int = 8192, most: int = 512) -> tuple[int, ...]:
    """Feature maps at 4, 8, … `resolution` pixels in the published networks: min(base / (resolution / 2), most).

    >>> published_channels(128)
    (512, 512, 512, 512, 256, 128)
    """
    return tuple(min(2 * base // 2**level, most) for level in range(2, resolution.bit_length()))


@dataclass(frozen=True)
class ProGANConfig:
    """Size of a ProGAN generator and its critic.

    Args:
        latent_dim: latent components n.
        channels: feature maps at 4, 8, 16, … pixels; their number sets the resolution.
        image_channels: 3 (RGB) or 1 (grey).
        normalize_latent: scale z to root mean square 1 first, as published; off for few latents, where it bends
            every coordinate.
    """

    latent_dim: int = 12
    channels: tuple[int, ...] = published_channels(128)
    image_channels: int = 3
    normalize_latent: bool = True

    def __post_init__(self) -> None:
        if self.latent_dim < 1:
            raise UserError(f"generator.latent_dim must be at least 1, got {self.latent_dim}.")
        if not self.channels or min(self.channels) < 1:
            raise UserError(f"generator.channels must name at least one positive width, got {self.channels}.")
        if self.image_channels not in (1, 3):
            raise UserError(f"generator.image_channels must be 1 (grey) or 3 (RGB), got {self.image_channels}.")

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return int(2 ** (len(self.channels) + 1))


class PixelNorm(nn.Module):
    r"""Scale every pixel's feature vector to root mean square 1: :math:`x / \sqrt{mean_c(x_c^2) + 10^{-8}}`."""

    def forward(self, x: Float[Tensor, "batch channels *space"]) -> Float[Tensor, "batch channels *space"]:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


class _FirstBlock(nn.Module):
    """Latent → 4×4 features by a dense layer, then a convolution."""

    def __init__(self, latent_dim: int, channels: int) -> None:
        super().__init__()
        self.dense = EqualizedLinear(latent_dim, channels * 16, gain=math.sqrt(2) / 4)
        self.norm0 = PixelNorm()
        self.conv1 = EqualizedConv2d(channels, channels, 3)
        self.norm1 = PixelNorm()

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels 4 4"]:
        x = self.dense(z).unflatten(1, (-1, 4, 4))  # (N, C, 4, 4)
        x = self.norm0(F.leaky_relu(x, 0.2))
        return torch.as_tensor(self.norm1(F.leaky_relu(self.conv1(x), 0.2)))


class _UpBlock(nn.Module):
    """Nearest-neighbour doubling, then two convolutions."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(in_channels, out_channels, 3)
        self.norm0 = PixelNorm()
        self.conv1 = EqualizedConv2d(out_channels, out_channels, 3)
        self.norm1 = PixelNorm()

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = self.norm0(F.leaky_relu(self.conv0(x), 0.2))
        return torch.as_tensor(self.norm1(F.leaky_relu(self.conv1(x), 0.2)))


class ProGANGenerator(nn.Module):
    """G: latents (N, n) → images (N, C, H, W), unbounded but trained towards [-1, 1]; satisfies `Generator`.

    >>> G = ProGANGenerator(ProGANConfig(latent_dim=5, channels=(16, 8)))
    >>> G(G.sample_latents(2)).shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, config: ProGANConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = config.latent_dim
        self.normalize_latent = config.normalize_latent
        self.latent_norm = PixelNorm()
        widths = config.channels
        self.blocks = nn.ModuleList(
            [_FirstBlock(config.latent_dim, widths[0])]
            + [_UpBlock(before, after) for before, after in pairwise(widths)]
        )
        self.to_image = EqualizedConv2d(widths[-1], config.image_channels, 1, gain=1.0)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # up to 1.7 times faster on a CPU

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Float[Tensor, "count latent"]:
        """Standard normal latents on the generator's device; drawn on the device of `rng` where it is given."""
        device = self.to_image.weight.device
        drawn_on = rng.device if rng is not None else device
        return torch.randn(count, self.latent_dim, generator=rng, device=drawn_on).to(self.to_image.weight)

    @property
    def first_linear(self) -> EqualizedLinear:
        """The layer that reads the latents: a rotation of the latents folds into its weight."""
        return cast(_FirstBlock, self.blocks[0]).dense

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        x = self.latent_norm(z) if self.normalize_latent else z
        for block in self.blocks:
            x = block(x)
        return torch.as_tensor(self.to_image(x))


def minibatch_stddev(
    x: Float[Tensor, "batch channels height width"], group_size: int = 4
) -> Float[Tensor, "batch channels_plus_one height width"]:
    """Append one feature map: each group's standard deviation over its members, averaged over all features.

    It lets the critic see a lack of variety. The group is the largest divisor of the batch up to `group_size`.

    Source: Karras et al., ICLR 2018, §3.
    """
    count, _, height, width = x.shape
    group = next(size for size in range(min(group_size, count), 0, -1) if count % size == 0)
    grouped = x.reshape(group, -1, *x.shape[1:])  # (group, N/group, C, H, W)
    variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)  # 27 times faster than torch.var on a CPU
    deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))  # (N/group,)
    extra = deviation.repeat(group)[:, None, None, None].expand(count, 1, height, width)
    return torch.cat([x, extra], dim=1)


class _DownBlock(nn.Module):
    """Two convolutions, then 2×2 averaging."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3)
        self.conv1 = EqualizedConv2d(in_channels, out_channels, 3)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        x = F.leaky_relu(self.conv0(x), 0.2)
        return F.avg_pool2d(F.leaky_relu(self.conv1(x), 0.2), 2)


class ProGANCritic(nn.Module):
    """D: images (N, C, H, W) → scores (N,); the generator's mirror image with minibatch standard deviation at 4×4.

    >>> ProGANCritic(ProGANConfig(channels=(16, 8)))(torch.zeros(4, 3, 8, 8)).shape
    torch.Size([4])
    """

    def __init__(self, config: ProGANConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]
        self.from_image = EqualizedConv2d(config.image_channels, widths[0], 1)
        self.blocks = nn.ModuleList([_DownBlock(before, after) for before, after in pairwise(widths)])
        self.conv = EqualizedConv2d(widths[-1] + 1, widths[-1], 3)
        self.dense = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.score = EqualizedLinear(widths[-1], 1, gain=1.0)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        x = F.leaky_relu(self.from_image(images), 0.2)
        for block in self.blocks:
            x = block(x)
        x = F.leaky_relu(self.conv(minibatch_stddev(x)), 0.2)
        x = F.leaky_relu(self.dense(x.flatten(1)), 0.2)
        return torch.as_tensor(self.score(x)).squeeze(1)
