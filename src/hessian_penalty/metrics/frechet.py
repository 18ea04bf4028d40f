"""Fréchet distance between the features of generated and real images."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.errors import UserError


class AsTheyAre(nn.Module):
    """Hands features on to metrics that would extract them from images themselves.

    Args:
        num_features: F.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Float[Tensor, "images features"]) -> Float[Tensor, "images features"]:
        return features


def check_features(generated: Tensor, reference: Tensor, what: str) -> None:
    """Refuse features of which no distance can be taken.

    Raises:
        UserError: their numbers differ, there are fewer than two images, or a value is not finite.
    """
    if generated.shape[1] != reference.shape[1]:
        raise UserError(
            f"{what} needs equal features of both sets, got {generated.shape[1]} and {reference.shape[1]} of an image: "
            "take them from one extractor."
        )
    for name, features in (("generated", generated), ("reference", reference)):
        if len(features) < 2:
            raise UserError(f"{what} needs at least 2 {name} images, got {len(features)}.")
        if not torch.isfinite(features).all():  # LAPACK may end the process at them
            raise UserError(
                f"{what} needs finite features, got NaN or infinite ones of the {name} images: look at these images; "
                "a generator that diverged in training gives such."
            )


def frechet_distance(generated: Float[Tensor, "images features"], reference: Float[Tensor, "others of_these"]) -> float:
    r"""Fréchet distance of Gaussian fits, :math:`|\mu_1-\mu_2|^2 + \mathrm{Tr}(C_1 + C_2 - 2 (C_1 C_2)^{1/2})`.

    At least 0, in float64; the algebra is torchmetrics'. Values depend on the number of images, falling with it, so
    that only distances of equal numbers compare; with no more images than features the covariances are singular (see
    `few_images_note`). It is called FID only with the features of Inception-v3.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017.

    Raises:
        UserError: that of `check_features`, or torchmetrics is not installed.

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
    9.0
    """
    check_features(generated, reference, "A Fréchet distance")
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError:
        raise UserError("The Fréchet distance needs torchmetrics: pip install 'hessian-penalty[features]'.") from None
    metric = FrechetInceptionDistance(feature=AsTheyAre(generated.shape[1]))
    metric.set_dtype(torch.float64)
    metric.update(reference.double(), real=True)
    metric.update(generated.double(), real=False)
    return max(float(metric.compute()), 0.0)


def few_images_note(images: int, features: int) -> str | None:
    """What to know of a distance of so few images; None where they are enough.

    >>> few_images_note(5000, 1280) is None
    True
    """
    if images > features:
        return None
    return (
        f"The distances are of {images:,} images with {features:,} features each: no more images than features make "
        "the Fréchet distance too large. Compare it at this number only; the kernel distance is unbiased."
    )
