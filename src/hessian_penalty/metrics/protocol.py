"""How many samples each measure takes: part of every result, since most values depend on it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from hessian_penalty.errors import LARGEST_SEED, UserError, check_number


@dataclass(frozen=True)
class MeasureProtocol:
    """How many samples each measure takes; part of every result. A number of 0 leaves a measure out.

    Args:
        activeness_samples: latents at which activeness is measured.
        hessian_samples: latents at which whole Hessians are measured.
        frechet_images: generated images for the Fréchet and kernel distances.
        reference_images: real images that they are compared with, the first ones; 0 takes all.
        kernel_subsets: random subsets of 1,000 images over which the kernel distance is a mean.
        path_length_pairs: pairs of latents of the path length.
        path_length_pixels: to which images are resized for it.
        predictability_pairs: pairs of images of the variation predictability, in each of three repeats.
        audit_images: generated images whose factors the probe tells.
        extractor: whose features the distances use: "efficientnet-lite0", or "inception-v3" where torch-fidelity is
            installed: the Fréchet distance is then the FID.
        perceptual_distance: of the path length: "efficientnet-lite0", or "lpips-vgg16" where lpips is installed.
        batch_size: latents a pass; bounds memory.
        seed: of all draws.
    """

    activeness_samples: int = 300
    hessian_samples: int = 64
    frechet_images: int = 5000
    reference_images: int = 5000
    kernel_subsets: int = 20
    path_length_pairs: int = 2000
    path_length_pixels: int = 64
    predictability_pairs: int = 2000
    audit_images: int = 5000
    extractor: Literal["efficientnet-lite0", "inception-v3"] = "efficientnet-lite0"
    perceptual_distance: Literal["efficientnet-lite0", "lpips-vgg16"] = "efficientnet-lite0"
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("activeness_samples", "hessian_samples", "batch_size"):
            check_number(f"protocol.{name}", getattr(self, name), 2)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value != 0 and value < least:
                raise UserError(f"protocol.{name} must be 0, which leaves it out, or at least {least}, got {value}.")
        for name in ("reference_images", "kernel_subsets"):
            check_number(f"protocol.{name}", getattr(self, name), 0)
        check_number("protocol.path_length_pixels", self.path_length_pixels, 32)
        check_number("protocol.seed", self.seed, 0, LARGEST_SEED)

    def record(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        """Name and numbers, for people.

        >>> str(MeasureProtocol())
        'quick: 5,000 images, 2,000 pairs, 64 Hessians'
        """
        same = dataclasses.replace(self, seed=0, batch_size=MeasureProtocol.batch_size)
        names = {protocol: name for name, protocol in PROTOCOLS.items()}
        return (
            f"{names.get(same, 'own')}: {self.frechet_images:,} images, {self.path_length_pairs:,} pairs, "
            f"{self.hessian_samples} Hessians"
        )


_LEAST = {"frechet_images": 2, "path_length_pairs": 10, "predictability_pairs": 20, "audit_images": 100}

PROTOCOLS = {
    "quick": MeasureProtocol(),
    "published": MeasureProtocol(
        hessian_samples=100,
        frechet_images=50_000,
        reference_images=0,
        kernel_subsets=100,
        path_length_pairs=100_000,
        path_length_pixels=256,
        predictability_pairs=10_000,
        audit_images=10_000,
    ),
}
