"""Fréchet distance between the features of generated and real images."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from hessian_penalty.errors import UserError


class FrechetDistance:
    r"""Fréchet distance of Gaussian fits :math:`|\mu_1-\mu_2|^2 + \mathrm{Tr}(C_1 + C_2 - 2 (C_1 C_2)^{1/2})`.

    The covariance algebra is torchmetrics'. The reference is read once and serves every generator compared with it.
    Named after its extractor: it is "FID" only with Inception-v3. Values depend on the number of images, so that only
    distances with the same numbers compare.

    Args:
        extractor: images in [-1, 1] → features (N, F); has `num_features` and `name`.
        reference: batches of real images.

    Raises:
        UserError: torchmetrics is not installed, or `reference` has fewer than two images.
    """

    def __init__(self, extractor: nn.Module, reference: Iterable[Tensor]) -> None:
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
        except ImportError:
            raise UserError(
                "The Fréchet distance needs torchmetrics: pip install 'hessian-penalty[features]'."
            ) from None
        self.name = str(extractor.name)
        self._metric: Any = FrechetInceptionDistance(feature=extractor, reset_real_features=False)
        count = self._update(reference, real=True)
        if count < 2:
            raise UserError(f"A Fréchet distance needs at least 2 reference images, got {count}.")

    def _update(self, batches: Iterable[Tensor], *, real: bool) -> int:
        count = 0
        for images in batches:
            self._metric.update(images, real=real)
            count += len(images)
        return count

    def __call__(self, generated: Iterable[Tensor]) -> float:
        """The distance of batches of generated images to the reference."""
        self._metric.reset()
        count = self._update(generated, real=False)
        if count < 2:
            raise UserError(f"A Fréchet distance needs at least 2 generated images, got {count}.")
        return max(float(self._metric.compute()), 0.0)
