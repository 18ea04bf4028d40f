"""The ProGAN critic, written from Karras et al., "Progressive Growing of GANs", ICLR 2018, with InfoGAN's head."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.generators.equalized import EqualizedConv2d, EqualizedDownConv2d, EqualizedLinear
from hessian_penalty.generators.growing import Growing
from hessian_penalty.generators.progan import ProGANConfig


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
    """Two convolutions and 2×2 averaging, before or after the last activation."""

    def __init__(self, in_channels: int, out_channels: int, fused: bool) -> None:
        super().__init__()
        self.conv0 = EqualizedConv2d(in_channels, in_channels, 3)
        self.fused = fused
        self.conv1 = (
            EqualizedDownConv2d(in_channels, out_channels) if fused else EqualizedConv2d(in_channels, out_channels, 3)
        )

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height2 width2"]:
        x = F.leaky_relu(self.conv1(F.leaky_relu(self.conv0(x), 0.2)), 0.2)
        return x if self.fused else F.avg_pool2d(x, 2)


class _CodeHead(nn.Module):
    """InfoGAN's Q: features at 4×4 → the latents that made the image."""

    def __init__(self, channels: int, code_dim: int) -> None:
        super().__init__()
        self.conv = EqualizedConv2d(channels, channels, 3)
        self.dense = EqualizedLinear(channels * 16, channels)
        self.code = EqualizedLinear(channels, code_dim, gain=1.0)

    def forward(self, x: Float[Tensor, "batch channels 4 4"]) -> Float[Tensor, "batch code"]:
        x = F.leaky_relu(self.conv(x), 0.2)
        return torch.as_tensor(self.code(F.leaky_relu(self.dense(x.flatten(1)), 0.2)))


class ProGANCritic(Growing):
    """D: images (N, C, H, W) → scores (N,); the generator's mirror image with minibatch standard deviation at 4×4.

    At a level of detail above 0 it reads smaller images, as the generator makes them.

    Args:
        config: the generator's.
        code_dim: latents that InfoGAN's head infers; 0 for none.

    >>> ProGANCritic(ProGANConfig(channels=(16, 8)))(torch.zeros(4, 3, 8, 8)).shape
    torch.Size([4])
    """

    def __init__(self, config: ProGANConfig, code_dim: int = 0) -> None:
        widths = config.channels[::-1]
        super().__init__(len(widths), config.grows)
        self.from_image = EqualizedConv2d(config.image_channels, widths[0], 1)
        self.blocks = nn.ModuleList(
            [_DownBlock(before, after, config.fused_scale) for before, after in pairwise(widths)]
        )
        self.conv = EqualizedConv2d(widths[-1] + 1, widths[-1], 3)
        self.dense = EqualizedLinear(widths[-1] * 16, widths[-1])
        self.score = EqualizedLinear(widths[-1], 1, gain=1.0)
        lower = widths[1:] if config.grows else ()
        self.from_lower_images = nn.ModuleList(EqualizedConv2d(config.image_channels, w, 1) for w in lower)
        self.code = _CodeHead(widths[-1], code_dim) if code_dim else None
        # As the generator; PyTorch's overloads lack this form, which its documentation has.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, " batch"]:
        return self._scores(self._features(images))

    def scores_and_codes(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch code"]]:
        """Scores, and the latents that InfoGAN's head infers, in one pass.

        Raises:
            ValueError: the critic has no such head.
        """
        if self.code is None:
            raise ValueError("This critic infers no latents: build it with `code_dim`.")
        features = self._features(images)
        return self._scores(features), self.code(features)

    def _features(self, images: Tensor) -> Tensor:
        level, below = self.level
        x = self._read(images, level)
        if below:
            x = torch.lerp(self.blocks[level](x), self._read(F.avg_pool2d(images, 2), level + 1), below)
            level += 1
        for block in self.blocks[level:]:
            x = block(x)
        return x

    def _scores(self, features: Tensor) -> Tensor:
        x = F.leaky_relu(self.conv(minibatch_stddev(features)), 0.2)
        x = F.leaky_relu(self.dense(x.flatten(1)), 0.2)
        return torch.as_tensor(self.score(x)).squeeze(1)

    def _read(self, images: Tensor, level: int) -> Tensor:
        layer = self.from_lower_images[level - 1] if level else self.from_image
        return F.leaky_relu(layer(images), 0.2)
