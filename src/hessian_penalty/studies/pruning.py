"""Take latents that do nothing out of a run."""

from pathlib import Path

import torch
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import activeness_along
from hessian_penalty.directions.method import Space
from hessian_penalty.directions.reduction import ImageChange
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.runs import RunFolder, require_new
from hessian_penalty.studies.rotation import rotate_run


def prune_run(
    source: RunFolder, out: str | Path, *, below: float = 0.05, seed: int = 0
) -> tuple[Directions, ImageChange, Tensor]:
    """Write the run without its inactive latents to `out`; the others keep their order.

    Args:
        source: the run.
        out: folder of the new run; must not exist.
        below: latents go whose activeness is less than this part of the most active one's, from 0 to 1.
        seed: of the latents at which activeness and the change of images are measured.

    Returns:
        The latents that are left as rows, with their activeness; what it does to images; the activeness of all.

    Raises:
        UserError: `out` exists, the run has no readable checkpoint, or no latent is inactive.
    """
    check_number("below", below, 0, 1)
    out = require_new(out)
    G = load_generator(source)
    axes = torch.eye(G.latent_dim, dtype=torch.float64)
    active = activeness_along(Space(G, axes), axes, torch.Generator().manual_seed(seed))
    kept = (active >= below * active.max()).nonzero().flatten()
    if len(kept) == G.latent_dim:
        least = float(active.min() / active.max()) if float(active.max()) > 0 else 1.0
        raise UserError(
            f"{source.path} has no latent below {below:g} of the most active one: the least active has {least:.3g}. "
            "Raise the threshold, or rotate the run first: that gathers what latents do in as few as it can."
        )
    directions = Directions(
        axes[kept].float(),
        activeness=active[kept].float(),
        provenance={"method": "prune", "below": below, "latents": kept.tolist(), "seed": seed},
    )
    _, change = rotate_run(source, out, directions=directions, keep=len(kept), seed=seed)
    assert change is not None  # there is one wherever latents are left out
    return directions, change, active
