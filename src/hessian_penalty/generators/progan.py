"""The ProGAN generator, written from Karras et al., "Progressive Growing of GANs", ICLR 2018.

Layers are counted as in the Hessian Penalty paper: two normalised activations a block, `blocks.<b>.norm0` and
`blocks.<b>.norm1`, then the image; 13 layers at 128 pixels.
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
from hessian_penalty.generators.equalized import EqualizedConv2d, EqualizedLinear, EqualizedUpConv2d
from hessian_penalty.generators.growing import Growing, fade_in

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
        grows: with an image layer at every resolution, so that training can grow the networks block by block.
        fused_scale: doubling and averaging of pixels in one with the convolution beside it, as published; the critic
            then averages before the activation, without it after.
    """

    latent_dim: int = 12
    channels: tuple[int, ...] = published_channels(128)
    image_channels: int = 3
    normalize_latent: bool = True
    grows: bool = False
    fused_scale: bool = False

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

    def __init__(self, in_channels: int, out_channels: int, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.conv0 = (
            EqualizedUpConv2d(in_channels, out_channels) if fused else EqualizedConv2d(in_channels, out_channels, 3)
        )
        self.norm0 = PixelNorm()
        self.conv1 = EqualizedConv2d(out_channels, out_channels, 3)
        self.norm1 = PixelNorm()

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        x = self.conv0(x if self.fused else _doubled(x))
        x = self.norm0(F.leaky_relu(x, 0.2))
        return torch.as_tensor(self.norm1(F.leaky_relu(self.conv1(x), 0.2)))


class ProGANGenerator(Growing):
    """G: latents (N, n) → images (N, C, H, W), unbounded but trained towards [-1, 1]; satisfies `Generator`.

    At a level of detail above 0 images are smaller; while a level fades in, they are a mixture of its image and the
    doubled image of the level below.

    >>> G = ProGANGenerator(ProGANConfig(latent_dim=5, channels=(16, 8), grows=True))
    >>> G(G.sample_latents(2)).shape
    torch.Size([2, 3, 8, 8])
    >>> G.lod = 1.0
    >>> G(G.sample_latents(2)).shape
    torch.Size([2, 3, 4, 4])
    """

    def __init__(self, config: ProGANConfig) -> None:
        widths = config.channels
        super().__init__(len(widths), config.grows)
        self.config = config
        self.latent_dim = config.latent_dim
        self.normalize_latent = config.normalize_latent
        self.latent_norm = PixelNorm()
        self.blocks = nn.ModuleList(
            [_FirstBlock(config.latent_dim, widths[0])]
            + [_UpBlock(before, after, config.fused_scale) for before, after in pairwise(widths)]
        )
        self.to_image = EqualizedConv2d(widths[-1], config.image_channels, 1, gain=1.0)
        lower = widths[-2::-1] if config.grows else ()
        self.to_lower_images = nn.ModuleList(EqualizedConv2d(w, config.image_channels, 1, gain=1.0) for w in lower)
        # Up to 1.7 times faster on a CPU; PyTorch's overloads lack this form, which its documentation has.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Float[Tensor, "count latent"]:
        """Standard normal latents on the generator's device; drawn on the device of `rng` where it is given."""
        device = self.to_image.weight.device
        drawn_on = rng.device if rng is not None else device
        return torch.randn(count, self.latent_dim, generator=rng, device=drawn_on).to(self.to_image.weight)

    @property
    def first_linear(self) -> EqualizedLinear:
        """The layer that reads the latents: a rotation of the latents folds into its weight."""
        return cast(_FirstBlock, self.blocks[0]).dense

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels, at the present level of detail."""
        return self.config.resolution >> self.level[0]

    def fade_in(self, layer: str) -> float:
        """Weight of a layer's penalty at the present level of detail: a block's layers fade in with its image.

        Args:
            layer: the name of a module of this network.
        """
        part, *rest = layer.split(".")
        if part == "to_image":
            return fade_in(0, self.lod)
        if part == "to_lower_images" and rest:
            return fade_in(int(rest[0]) + 1, self.lod)
        if part == "blocks" and rest:
            return fade_in(self.levels - 1 - int(rest[0]), self.lod)
        return 1.0

    def forward(self, z: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch channels height width"]:
        x = previous = self.latent_norm(z) if self.normalize_latent else z
        level, below = self.level
        for block in self.blocks[: self.levels - level]:
            previous, x = x, block(x)
        images = self._image(x, level)
        if below:
            images = torch.lerp(images, _doubled(self._image(previous, level + 1)), below)
        return torch.as_tensor(images)

    def _image(self, x: Tensor, level: int) -> Tensor:
        return torch.as_tensor((self.to_lower_images[level - 1] if level else self.to_image)(x))


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
