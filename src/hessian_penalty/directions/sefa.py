"""Discovery from weights alone: eigenvectors of the first projection."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hessian_penalty.directions.first_layers import latent_layers, latent_weights, unwrapped
from hessian_penalty.directions.method import Found, Method, Progress, Space
from hessian_penalty.directions.rotated_generator import in_precision_of
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError

SAMPLES = 4  # latents of the pass that shows which layers read them


@dataclass(frozen=True)
class SeFaSearch(Method):
    r"""Directions in which the first projection changes most, in closed form.

    With the weight W of the layer that reads the latents, unit vectors n that maximise :math:`\lVert W n \rVert^2`
    one after the other, each orthogonal to those before: the eigenvectors of :math:`W^T W`, by descending eigenvalue.
    In a subspace with orthonormal rows R they are those of :math:`R W^T W R^T`. Where several layers read z, their
    weights are stacked. A generator with a method `latent_weights()` gives W itself (BigGAN, whose layers read parts
    of z). Notes hold the eigenvalues, descending, and the names of the layers.

    It takes one pass and no samples, and does not see what comes after the first layer.

    Source: Shen & Zhou, "Closed-Form Factorization of Latent Semantics in GANs", CVPR 2021, §3.2.

    >>> from hessian_penalty.directions.discover import discover
    >>> G = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Unflatten(1, (2, 2, 2)))
    >>> discover(G, latent_dim=3, method=SeFaSearch()).provenance["layers"]
    ['0']
    """

    name: ClassVar[str] = "sefa"

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Decompose.

        Raises:
            UserError: no layer reads z itself.
        """
        owner = unwrapped(space.G)
        if hasattr(owner, "latent_weights"):
            weights, names = [latent_weights(owner, space.G.latent_dim)], ["latent_weights"]
        else:
            z, conditions = space.sample(SAMPLES, rng)
            layers = latent_layers(space.G, in_precision_of(space.G, z), **conditions)
            weights, names = [layer.weight for layer in layers], [layer.name for layer in layers]
        if not weights:
            raise UserError(
                f"Method 'sefa' takes the weights of the layers that read the latents, but no layer of "
                f"{type(owner).__name__} gets z itself, normalised or not; give the generator a method "
                "`latent_weights()` that returns them as a matrix (out, latent), or choose another method."
            )
        projected = torch.cat([weight.cpu().double() for weight in weights]) @ space.rows.T  # (out, dim)
        eigenvalues, eigenvectors = torch.linalg.eigh(projected.T @ projected)
        notes = {"layers": names, "eigenvalues": eigenvalues.flip(0).clamp(min=0).tolist()}
        return Found(eigenvectors.T.flip(0) @ space.rows, notes=notes)
