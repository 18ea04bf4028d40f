"""Which latents change what another does at the images: means over the Hessians of a generator."""

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.generators.protocol import Generator
from hessian_penalty.penalty.hessians import hessian_entries


@torch.no_grad()
def hessian_statistics(
    G: Generator,
    z: Float[Tensor, "batch latent"],
    *,
    basis: Float[Tensor, "count latent"] | None = None,
    epsilon: float = 0.1,
    batch_size: int = 128,
) -> tuple[Float[Tensor, "count count"], Float[Tensor, "count count"]]:
    r"""Mean of :math:`H_{ij}^2` and of :math:`|H_{ij}|` over samples and image elements, float64, in one pass.

    Finite differences at scale `epsilon`, 2n² + 1 images a sample.

    Args:
        basis: directions to differentiate along, instead of the coordinates.
        batch_size: latents a pass; bounds memory.
    """
    n = z.shape[1] if basis is None else len(basis)
    squares = torch.zeros(n, n, dtype=torch.float64)
    magnitudes = torch.zeros(n, n, dtype=torch.float64)
    per_chunk = max(1, batch_size // 4)
    for chunk in z.split(per_chunk):
        for i, j, values in hessian_entries(G, chunk, epsilon=epsilon, basis=basis, chunk_size=batch_size):
            flat = values.flatten(1)
            for total, found in ((squares, flat.square()), (magnitudes, flat.abs())):
                total[i, j] += float(found.mean(dim=1).sum(dtype=torch.float64))
                total[j, i] = total[i, j]
    return squares / len(z), magnitudes / len(z)
