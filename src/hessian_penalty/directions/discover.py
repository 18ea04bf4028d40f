"""Find a generator's interpretable directions: the entry point over all discovery methods."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.fixed import Coordinates, RandomBasis
from hessian_penalty.directions.ganspace import GANSpaceSearch
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.directions.hessian_gradient import HessianGradientSearch
from hessian_penalty.directions.method import (
    Method,
    Progress,
    Space,
    generator_errors,
    require_conditions,
    subspace_rows,
)
from hessian_penalty.directions.orojar import OroJaRSearch
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.directions.sefa import SeFaSearch
from hessian_penalty.directions.voynov import VoynovSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator, as_generator
from hessian_penalty.metrics.activeness import activeness
from hessian_penalty.penalty.arguments import check_generator, check_whole

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        HessianSearch,
        HessianGradientSearch,
        OroJaRSearch,
        SeFaSearch,
        GANSpaceSearch,
        VoynovSearch,
        Coordinates,
        RandomBasis,
    )
}
ACTIVENESS_SAMPLES, ACTIVENESS_BATCH = 300, 64


def discover(
    G: Callable[..., Any],
    *,
    latent_dim: int | None = None,
    method: str | Method = "hessian",
    count: int | None = None,
    subspace: Any = None,
    rng: torch.Generator | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
    **conditions: Any,
) -> Directions:
    r"""Directions along which G's latents act independently, the most active first.

    The default method minimises the Hessian Penalty of :math:`w \mapsto G(A w)` over square orthonormal A. For
    z ~ N(0, I), G(A w) has exactly the distribution of G(z): the directions rename the coordinates and change no image.

    Args:
        G: the frozen generator: a callable from latents to images; one that has `latent_dim` and
            `sample_latents(count, rng)` says itself how its latents are drawn, any other gets N(0, I).
        latent_dim: number of latent components, where G does not carry it.
        method: a name from `METHODS`, or a method with settings of its own, as `HessianSearch(sketches=64)`.
        count: keep only the most active rows; None keeps all. Fewer rows come from the full basis, since a search for
            few directions would prefer dead ones, whose penalty is 0.
        subspace: search only there: component numbers (a slice, a range, a sequence), a name that G gives to some of
            them ("coarse"), or a matrix of rows that span it.
        rng: makes the search repeatable; None is a generator seeded with 0.
        checkpoint: file in which a long search keeps what it has; if it exists, the search goes on from there. It is
            deleted at the end.
        progress: called with (done, total).
        conditions: passed to G as they are; the word "random" for labels draws them anew for each latent by
            `G.sample_labels(count, rng)`.

    Returns:
        `Directions`, sorted by activeness, each with its largest component positive.

    Raises:
        UserError: an unknown method, subspace or condition, `count` beyond the room there is, or a G without gradients
            or with images that are not finite.

    >>> G = lambda z: (z[:, 0] * z[:, 1])[:, None, None, None]
    >>> discover(G, latent_dim=2).matrix.abs()  # its Hessian is diagonal along the diagonals
    tensor([[0.7071, 0.7071],
            [0.7071, 0.7071]])
    """
    generator = as_generator(G, latent_dim)
    require_conditions(generator, conditions)
    if isinstance(method, str):
        if method not in METHODS:
            raise UserError(f"Unknown method {method!r}; choose one of {', '.join(METHODS)}.")
        method = METHODS[method]()
    if not isinstance(method, Method):
        raise UserError(f"`method` must be a name or a method with its settings, as HessianSearch(), got {method!r}.")
    if count is not None:
        check_whole("count", count)
    check_generator("rng", rng)
    space = Space(generator, subspace_rows(generator, subspace), conditions)
    if count is not None and not 1 <= count <= space.dim:
        raise UserError(f"`count` must lie in [1, {space.dim}], the dimension searched, got {count}.")
    rng = rng or torch.Generator().manual_seed(0)
    record = method.record() | {"generator": space.fingerprint(), "subspace": describe(subspace)}
    state = None
    if checkpoint is not None:
        begin = hashlib.sha256(rng.get_state().numpy().tobytes()).hexdigest()[:12]
        state = SearchState(checkpoint, {**record, "random_state": begin, "conditions": describe(conditions)})
    found = method.search(space, rng=rng, progress=progress, state=state)
    if state:
        state.flush()
    directions = _ordered(space, found.rows, found.curvature, record | found.notes, count, rng)
    if state:
        state.finish()
    return directions


def _ordered(
    space: Space,
    found: Tensor,
    curvature: Tensor | None,
    record: dict[str, Any],
    count: int | None,
    rng: torch.Generator,
) -> Directions:
    """Sort by activeness, and fix the signs."""
    active = activeness_along(space, found, rng)
    order = active.argsort(descending=True)[:count]
    rows = found[order]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    return Directions(
        matrix=(rows * largest.sign()).float(),
        activeness=active[order].float(),
        curvature=None if curvature is None else curvature[order].float(),
        provenance=record,
    )


def activeness_along(
    space: Space, rows: Float[Tensor, "count latent"], rng: torch.Generator
) -> Float[Tensor, " count"]:
    """Activeness of unit rows in latent space, under the conditions of the space; see `activeness`."""
    _, conditions = space.sample(ACTIVENESS_SAMPLES, rng)
    G = FunctionGenerator(partial(space.G, **conditions.others), space.G.latent_dim, space.G.sample_latents)
    of_samples = dict[str, Any](conditions.of_samples)
    with generator_errors((ACTIVENESS_BATCH, space.G.latent_dim)):
        return activeness(
            G, samples=ACTIVENESS_SAMPLES, basis=rows.float(), batch_size=ACTIVENESS_BATCH, rng=rng, **of_samples
        )


def describe(value: Any) -> str:
    """Return a text that is the same for the same subspace or conditions.

    >>> describe(slice(0, 40)), describe({"labels": 207})
    ('slice(0, 40, None)', 'labels=207')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        values = torch.as_tensor(value).detach().cpu().double()
        return f"{tuple(values.shape)} {hashlib.sha256(values.numpy().tobytes()).hexdigest()[:12]}"
    if isinstance(value, dict):
        return ", ".join(f"{name}={describe(item)}" for name, item in sorted(value.items()))
    return str(value)
