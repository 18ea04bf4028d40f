"""Features of Inception-v3, where the user has torch-fidelity: the Fréchet distance is then the FID."""

import functools
from pickle import UnpicklingError
from typing import Any
from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError


class InceptionFeatures(nn.Module):
    """Images (N, C, H, W) in [-1, 1] → the 2048 pooled features of Inception-v3 with the weights of the FID.

    Images are rounded to bytes, as the FID wants them, and grey ones repeated to three channels; torch-fidelity resizes
    them to 299 pixels as TensorFlow does. It downloads the weights (91 MB) when first used; here they are read as
    tensors alone, so that the file can run no code, and the hash of a download is checked.

    Source: Heusel et al., NeurIPS 2017; Obukhov et al., torch-fidelity, versions 0.3 and 0.4.

    Raises:
        UserError: torch-fidelity is not installed, or its weights cannot be had.
    """

    name = "inception-v3"
    num_features = 2048

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity import feature_extractor_inceptionv3 as theirs
        except (ImportError, RuntimeError, OSError) as error:  # torchvision beside another PyTorch raises the latter
            raise UserError(
                f"Inception-v3 needs the package torch-fidelity, which cannot be imported ({error}): pip install "
                "torch-fidelity, with the torchvision that fits your PyTorch; or take --protocol.extractor "
                "efficientnet-lite0."
            ) from None
        safe: Any = functools.partial(torch.hub.load_state_dict_from_url, weights_only=True, check_hash=True)
        try:
            with mock.patch.object(theirs, "load_state_dict_from_url", safe):
                self.network: nn.Module = theirs.FeatureExtractorInceptionV3(self.name, ["2048"])
        except (OSError, RuntimeError, EOFError, TypeError, ValueError, UnpicklingError) as error:
            told = isinstance(error, (OSError, RuntimeError))  # the others advise to unpickle it, or say nothing
            reason = str(error).partition("\n")[0] if told else "the file holds something else"
            raise UserError(
                f"Inception-v3's weights could not be loaded ({reason}); connect to the network, or put the file of "
                f"{theirs.URL_INCEPTION_V3} into {torch.hub.get_dir()}/checkpoints. If one is there, it is damaged: "
                "delete it first."
            ) from None
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 2048"]:
        images_uint8 = images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
        features: Tensor = self.network(images_uint8)[0]
        return features
