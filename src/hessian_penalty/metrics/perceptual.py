"""How different two images look: distances between the activations of networks that know what pictures show."""

import warnings
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError, check_number
from hessian_penalty.metrics.features import EfficientNetFeatures

SMALLEST_INPUT = 32  # pixels; both networks halve them four or five times
STAGE_ENDS = (0, 2, 4, 10, 15)  # the last blocks before each halving, and the last of all
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@runtime_checkable
class PerceptualDistance(Protocol):
    """What a path length needs of a distance between images.

    Attributes:
        name: of the network; values of different ones do not compare.
        input_pixels: to which images are resized; values at different ones do not compare.
    """

    name: str
    input_pixels: int

    def __call__(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """One value (N,) for each pair of images (N, C, H, W) in about [-1, 1]."""
        ...


class EfficientNetDistance(nn.Module):
    r"""LPIPS's form with EfficientNet-Lite0 and without learned weights: (N, C, H, W) in [-1, 1], twice → (N,).

    .. math:: d(a, b) = \sum_s \frac{1}{|P_s|} \sum_{p \in P_s} |\hat y_s^p(a) - \hat y_s^p(b)|^2

    :math:`\hat y_s^p` is the activation at position p of stage s, scaled to unit length over the channels; the five
    stages end where the network halves the image. 0 for equal images; at most 4 a stage, 20 in all. Runs in float32 on
    the network's device; grey images are repeated to three channels, and values beyond [-1, 1] are not clipped.

    Source: Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018, eq. 1 with w = 1.

    Args:
        input_pixels: images are resized to this, bilinearly.

    Raises:
        UserError: the packages of the `features` extra are not installed, `input_pixels` is below 32, or images have
            another number of channels than 1 or 3.
    """

    name = "efficientnet-lite0"
    mean: Tensor
    std: Tensor

    def __init__(self, input_pixels: int = 64) -> None:
        super().__init__()
        check_number("input_pixels", input_pixels, SMALLEST_INPUT)
        self.input_pixels = input_pixels
        self.network = EfficientNetFeatures().network
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 3, 1, 1))
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(
        self,
        images_a: Float[Tensor, "batch channels height width"],
        images_b: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, " batch"]:
        total = images_a.new_zeros(len(images_a), dtype=torch.float32, device=self.mean.device)
        for a, b in zip(self._stages(images_a), self._stages(images_b), strict=True):
            total += (a - b).square_().sum(dim=1).mean(dim=(1, 2))
        return total

    def _stages(self, images: Tensor) -> Iterator[Tensor]:
        """Activations at the ends of the stages, (N, C_s, H_s, W_s), of unit length at every position."""
        x = _resized(images.to(self.mean), self.input_pixels)
        x = (x.add(1).div(2) - self.mean) / self.std
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(x)))
        for index, block in enumerate(network._blocks):
            x = block(x)
            if index in STAGE_ENDS:
                yield F.normalize(x, dim=1)


class LPIPSDistance(nn.Module):
    """LPIPS with VGG16, the distance of published path lengths, from the `lpips` package: never a dependency.

    (N, C, H, W) in [-1, 1], twice → (N,). Version 0.1 of the learned weights. Grey images are repeated to three
    channels. The package needs torchvision, which has to fit PyTorch, and downloads VGG16 at its first use (528 MB).

    Source: Zhang et al., CVPR 2018.

    Args:
        input_pixels: images are resized to this, bilinearly.

    Raises:
        UserError: lpips cannot be imported, VGG16's weights cannot be had, `input_pixels` is below 32, or images have
            another number of channels than 1 or 3.
    """

    name = "lpips-vgg16"

    def __init__(self, input_pixels: int = 256) -> None:
        super().__init__()
        check_number("input_pixels", input_pixels, SMALLEST_INPUT)
        self.input_pixels = input_pixels
        try:
            import lpips
        except (ImportError, RuntimeError, OSError) as error:  # torchvision beside another PyTorch raises the latter
            raise UserError(
                f"LPIPS needs the package lpips, which cannot be imported ({error}): pip install lpips, with the "
                "torchvision that fits your PyTorch; or take EfficientNetDistance."
            ) from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lpips calls what torchvision has deprecated
                self.network: nn.Module = lpips.LPIPS(net="vgg", verbose=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"VGG16's weights for LPIPS could not be loaded ({error}); connect to the network, or put "
                f"vgg16-397923af.pth of download.pytorch.org/models into {torch.hub.get_dir()}/checkpoints."
            ) from None
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(
        self,
        images_a: Float[Tensor, "batch channels height width"],
        images_b: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, " batch"]:
        like = next(self.network.parameters())
        a, b = (_resized(images.to(like), self.input_pixels) for images in (images_a, images_b))
        values: Tensor = self.network(a, b)  # (N, 1, 1, 1)
        return values.flatten()


def _resized(images: Tensor, pixels: int) -> Tensor:
    """Images of three channels at pixels², smoothed first where they shrink."""
    if images.shape[1] not in (1, 3):
        raise UserError(f"A perceptual distance takes images of 1 (grey) or 3 (RGB) channels, got {images.shape[1]}.")
    images = images.expand(-1, 3, -1, -1)
    if images.shape[-2:] == (pixels, pixels):
        return images
    shrinks = max(images.shape[-2:]) > pixels
    return F.interpolate(images, size=(pixels, pixels), mode="bilinear", align_corners=False, antialias=shrinks)
