"""Find a generator's interpretable directions: the entry point over all discovery methods."""

from typing import Any

import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.hessian import HessianSearch, Progress
from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator, require_generator
from hessian_penalty.metrics.activeness import activeness

METHODS = ("hessian",)


def discover(
    G: Generator,
    *,
    method: str = "hessian",
    count: int | None = None,
    search: HessianSearch | None = None,
    rng: torch.Generator | None = None,
    progress: Progress | None = None,
    **conditions: Any,
) -> Directions:
    r"""Directions along which G's latents act independently, the most active first.

    Minimises the Hessian Penalty of :math:`w \mapsto G(A w)` over square orthonormal A. For z ~ N(0, I),
    G(A w) has exactly the distribution of G(z): the directions rename the coordinates and change no image.

    Args:
        G: the frozen generator (`latent_dim`, `sample_latents`, call).
        method: "hessian", joint diagonalisation of Hessian sketches (see `HessianSearch`).
        count: keep only the most active rows; default all. Fewer rows come from the full basis, since a search for
            few directions would prefer dead ones, whose penalty is 0.
        search: settings of the method.
        rng: makes the search repeatable; default a generator seeded with 0.
        progress: called with (done, total).
        conditions: passed to G, as labels.

    Returns:
        `Directions`, sorted by activeness, each with its largest component positive.

    Raises:
        UserError: unknown method, `count` beyond the latent size, or a G without gradients or with images that are
            not finite.
    """
    require_generator(G)
    if method not in METHODS:
        raise UserError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
    if count is not None and not 1 <= count <= G.latent_dim:
        raise UserError(f"`count` must lie in [1, {G.latent_dim}], the latent size, got {count}.")
    search = search or HessianSearch()
    rng = rng or torch.Generator().manual_seed(0)
    found = search.run(G, rng=rng, progress=progress, **conditions)
    basis = found.basis.float()
    active = activeness(G, basis=basis, batch_size=search.batch_size, rng=rng, **conditions)
    order = active.argsort(descending=True)[:count]
    rows = basis[order]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return Directions(
        matrix=rows * largest.sign(),
        activeness=active[order].float(),
        curvature=found.curvature[order].float(),
        provenance={"method": method, **search.record(), **found.record()},
    )
