"""Turn runs and other generators onto directions: their latents become the directions."""

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import METHODS, discover
from hessian_penalty.directions.folding import fold_second_moment, fold_weight
from hessian_penalty.directions.method import Method, Progress
from hessian_penalty.directions.reduction import ImageChange, drop_latents
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.directions.rotation import require_rotation, rotate_generator
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.loading import generator_config, load_generator, read_tensors, save_module
from hessian_penalty.generators.progan import FIRST_LINEAR_WEIGHT, ProGANGenerator
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.runs import RunFolder, atomic_path, require_new, write_json

_FOLDS = {"exp_avg": fold_weight, "exp_avg_sq": fold_second_moment}


def rotate_checkpoint(source: Path, out: Path, matrix: Tensor, first_parameter: int) -> None:
    """Copy a checkpoint folder with the rotation folded into generator, moving average and the optimiser's moments.

    Args:
        first_parameter: index of the first linear layer's weight among the generator's parameters.
    """
    shutil.copytree(source, out)
    for name in ("generator", "ema"):
        tensors = read_tensors(source / f"{name}.safetensors")
        tensors[FIRST_LINEAR_WEIGHT] = fold_weight(tensors[FIRST_LINEAR_WEIGHT], matrix)
        save_file(tensors, out / f"{name}.safetensors")
    moments = source / "generator_optimizer.safetensors"
    if moments.exists():
        tensors = read_tensors(moments)
        for name, fold in _FOLDS.items():
            key = f"{first_parameter}.{name}"
            if key in tensors:  # Adam has none before its first step
                tensors[key] = fold(tensors[key], matrix)
        save_file(tensors, out / moments.name)


def require_keep(keep: int | None, latent_dim: int) -> None:
    """Refuse a number of latents to keep that there are not.

    Raises:
        UserError: it is out of range.
    """
    if keep is not None and not 1 <= keep <= latent_dim:
        raise UserError(f"`keep` must lie in [1, {latent_dim}], the number of latents, got {keep}.")


def require_method(method: str | Method) -> None:
    """Refuse a method whose directions no generator can be rotated onto, before it searches.

    Raises:
        UserError: its rows are not orthonormal.
    """
    chosen = METHODS[method]() if isinstance(method, str) else method
    if not chosen.finds_rotation:
        raise UserError(
            f"Method {chosen.name!r} finds directions that are not orthogonal, so that no rotation leads to them; "
            "choose another, or edit along them."
        )


def rotate_run(
    source: RunFolder,
    out: str | Path,
    *,
    directions: Directions | None = None,
    method: str | Method = "hessian",
    keep: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Directions, ImageChange | None]:
    """Write the run turned onto directions to `out`.

    Latent i of the new run is direction i, the most active first; `directions.safetensors` there says which rows of
    the old latents they were. Images of w there are images of z = Σ w_i d_i here, up to rounding. The optimisers' state
    is turned as well, so that training can go on; with fewer latents it is left out.

    Args:
        source: the run.
        out: folder of the new run; must not exist.
        directions: onto which to turn; None finds them in the moving-average generator.
        method: by which they are found.
        keep: number of latents to keep, the first directions; None keeps all.
        seed: of the search and of the latents at which the change is measured.
        progress: called with (done, total) of the search.

    Returns:
        The directions, and what leaving latents out does to images.

    Raises:
        UserError: `out` exists, the source has no readable checkpoint, or the directions are no rotation.
    """
    out = require_new(out)
    generator = load_generator(source)
    require_keep(keep, generator.latent_dim)
    if directions is None:
        require_method(method)
        directions = discover(generator, method=method, rng=torch.Generator().manual_seed(seed), progress=progress)
        directions.provenance.update(seed=seed)
    directions = replace(
        directions,
        provenance={**directions.provenance, "run": source.name, "checkpoint": source.latest_checkpoint().name},
    )
    if directions.matrix.shape[1] != generator.latent_dim:
        raise UserError(
            f"The directions have {directions.matrix.shape[1]} components, but the run's latents have "
            f"{generator.latent_dim}: they were found for another generator."
        )
    if keep is None:
        require_rotation(directions.matrix)
    config = source.config()
    config["provenance"] = {**source.provenance(), "rotated": directions.provenance}
    change = None
    with atomic_path(out) as temporary:
        run = RunFolder(temporary)
        checkpoint = source.latest_checkpoint()
        target = temporary / checkpoint.relative_to(source.path)
        target.parent.mkdir(parents=True)
        if keep is None:
            names = [name for name, _ in ProGANGenerator(generator_config(source)).named_parameters()]
            rotate_checkpoint(checkpoint, target, directions.matrix, names.index(FIRST_LINEAR_WEIGHT))
        else:
            change = reduce_checkpoint(source, target, directions, keep, seed)
            config["generator"]["latent_dim"] = keep
            config["provenance"]["reduced"] = {"keep": keep, **asdict(change)}
        directions.save(temporary / "directions.safetensors")
        directions.save(temporary / "directions.csv")
        write_json(run.config_path, config)
    return directions, change


def reduce_checkpoint(source: RunFolder, out: Path, directions: Directions, keep: int, seed: int) -> ImageChange:
    """Copy a run's newest checkpoint with the first `keep` directions for latents, without optimisers.

    Returns:
        What it does to the images of the moving average.
    """
    checkpoint = source.latest_checkpoint()
    shutil.copytree(checkpoint, out, ignore=shutil.ignore_patterns("*_optimizer.safetensors"))
    changes = {}
    for name in ("generator", "ema"):
        rng = torch.Generator().manual_seed(seed)
        reduced, changes[name] = drop_latents(load_generator(source, name), directions, keep, rng=rng)
        if not isinstance(reduced, ProGANGenerator):
            raise UserError(f"The {name} of {source.path} cannot take its latents along these directions exactly.")
        save_module(reduced, out / f"{name}.safetensors")
    return changes["ema"]


def rotate_into(
    out: str | Path, G: Generator, directions: Directions, *, keep: int | None = None, seed: int = 0, **conditions: Any
) -> tuple[bool, ImageChange | None]:
    """Write any generator's directions to a folder, and its turned weights where one layer reads the latents.

    Returns:
        Whether `generator.safetensors` was written: the state of the same module, its first layer turned. And what
        leaving latents out does to images, with `keep`.

    Raises:
        UserError: `out` exists, or the directions are no rotation of this generator.
    """
    out = require_new(out)
    change = None
    if keep is None:
        turned: Any = rotate_generator(G, directions, **conditions)
    else:
        turned, change = drop_latents(G, directions, keep, rng=torch.Generator().manual_seed(seed), **conditions)
    module = turned.function if isinstance(turned, FunctionGenerator) else turned
    folded = isinstance(module, nn.Module) and not isinstance(module, RotatedGenerator)
    with atomic_path(out) as temporary:
        temporary.mkdir()
        directions.save(temporary / "directions.safetensors")
        directions.save(temporary / "directions.csv")
        if folded and isinstance(module, nn.Module):
            save_module(module, temporary / "generator.safetensors")
    return folded, change
