"""Principal components of a stream of activations, and the latents that go with them."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.errors import UserError

EXACT_FEATURES = 2048  # a covariance of 34 MB, decomposed in seconds
SMALLEST_VARIANCE = 1e-10  # of the largest; less is rounding of float32


class StreamedComponents:
    r"""Covariances of activations y, block after block, and their regression on latents z.

    Up to 2048 features the scatter matrix :math:`\sum (y - \bar y)(y - \bar y)^T` is summed, and the components are
    exact. For more a root R of it is carried along, :math:`R^T R` = scatter, cut to its `rank` largest singular values
    after each block: exact as long as the activations have no more components than that, else close for the leading
    ones. Memory does not grow with the samples.

    Args:
        latent_mean: mean of all latents to come; with it the activations need no centring for :math:`C_{zy}`.
        rank: singular values carried along where there are too many features.
        kept: `tensors` of a stream to go on with.

    Source: means and scatters of parts after Chan, Golub & LeVeque (1983); the cut root after Ross et al.,
    "Incremental learning for robust visual tracking", IJCV 2008.

    >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]], dtype=torch.float64)
    >>> stream = StreamedComponents(z.mean(dim=0), rank=2)
    >>> stream.add(z, z)
    >>> stream.directions(1).abs()
    tensor([[0., 1.]], dtype=torch.float64)
    """

    def __init__(self, latent_mean: Float[Tensor, " dim"], *, rank: int, kept: dict[str, Tensor] | None = None) -> None:
        self._latent_mean, self._rank = latent_mean, rank
        self.tensors = dict(kept or {})

    @property
    def count(self) -> int:
        """Samples so far."""
        return int(self.tensors["count"]) if self.tensors else 0

    @property
    def features(self) -> int:
        """Elements of an activation."""
        return len(self.tensors["mean"])

    def add(self, latents: Float[Tensor, "block dim"], activations: Float[Tensor, "block features"]) -> None:
        """Take in some samples, float64."""
        size, features = activations.shape
        exact = features <= EXACT_FEATURES
        if not self.tensors:
            self.tensors = {
                "count": torch.tensor(0),
                "mean": activations.new_zeros(features),
                "cross": activations.new_zeros(latents.shape[1], features),
                "scatter": activations.new_zeros(features if exact else 0, features),
            }
        mean, cross, scatter = (self.tensors[name] for name in ("mean", "cross", "scatter"))
        total = self.count + size
        block_mean = activations.mean(dim=0)
        between = math.sqrt(self.count * size / total) * (block_mean - mean)
        centred = torch.cat([activations - block_mean, between[None]])
        if exact:
            scatter = scatter + centred.T @ centred
        else:
            stacked = torch.cat([scatter, centred])
            _, vectors = torch.linalg.eigh(stacked @ stacked.T)  # in ascending order
            scatter = vectors[:, -self._rank :].T @ stacked
        self.tensors = {
            "count": torch.tensor(total),
            "mean": mean + size / total * (block_mean - mean),
            "cross": cross + (latents - self._latent_mean).T @ activations,
            "scatter": scatter,
        }

    def directions(self, most: int) -> Float[Tensor, "count dim"]:
        r"""Unit vectors :math:`\propto C_{zy} v_k` of the leading components, that with the largest variance first.

        Components of less than 1e-10 of the largest variance are left out.

        Raises:
            UserError: the activations do not vary.
        """
        scatter = self.tensors["scatter"]
        if self.features <= EXACT_FEATURES:
            variances, vectors = torch.linalg.eigh(scatter)
        else:
            variances, left = torch.linalg.eigh(scatter @ scatter.T)
            vectors = scatter.T @ left  # their lengths do not matter
        leading = variances.argsort(descending=True)[:most]
        leading = leading[variances[leading] > SMALLEST_VARIANCE * variances.max().clamp_min(0)]
        along = (self.tensors["cross"] @ vectors[:, leading]).T
        lengths = along.norm(dim=1, keepdim=True)
        if not len(along) or not bool((lengths > 0).all()):
            raise UserError("The activations do not vary with the latents, so that they have no principal components.")
        rows: Tensor = along / lengths
        return rows
