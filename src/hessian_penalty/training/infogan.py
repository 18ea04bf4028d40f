"""InfoGAN's term: the latents must be legible in the images."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def information_loss(z: Float[Tensor, "batch latent"], codes: Float[Tensor, "batch code"]) -> Float[Tensor, ""]:
    r"""Mean squared error :math:`E[(Q(G(z))_i - z_i)^2]` over batch and the first latents i, as many as codes.

    Up to constants its negative half is a lower bound of the mutual information of a latent and the image, for Q
    normal with unit variance. 1 is what a head reaches that knows nothing, 0 perfect inference.

    Source: Chen et al., "InfoGAN", NeurIPS 2016, eq. 5; for ProGAN as in Peebles et al., ECCV 2020.
    """
    return F.mse_loss(codes, z[:, : codes.shape[1]])
