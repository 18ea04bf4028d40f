"""Rotate a whole run: its latents become the found directions, and training can go on from there."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.method import Method, Progress
from hessian_penalty.directions.rotation import fold_second_moment, fold_weight
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config, load_generator, read_tensors
from hessian_penalty.generators.progan import FIRST_LINEAR_WEIGHT, ProGANGenerator
from hessian_penalty.runs import RunFolder, atomic_path, write_json

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


def rotate_run(
    source: RunFolder,
    out: str | Path,
    *,
    method: str | Method = "hessian",
    seed: int = 0,
    progress: Progress | None = None,
) -> Directions:
    """Find directions in the run's moving-average generator and write the run turned onto them to `out`.

    Latent i of the new run is direction i, the most active first; `directions.safetensors` there says which rows of
    the old latents they were. Images of w there are images of z = Σ w_i d_i here, up to rounding.

    Raises:
        UserError: `out` exists, or the source has no readable checkpoint.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already. Choose another --out, or delete it.")
    generator = load_generator(source)
    directions = discover(generator, method=method, rng=torch.Generator().manual_seed(seed), progress=progress)
    directions.provenance.update(seed=seed, run=source.name, checkpoint=source.latest_checkpoint().name)
    names = [name for name, _ in ProGANGenerator(generator_config(source)).named_parameters()]
    config = source.config()
    config["provenance"] = {**source.provenance(), "rotated": directions.provenance}
    with atomic_path(out) as temporary:
        run = RunFolder(temporary)
        checkpoint = source.latest_checkpoint()
        target = temporary / checkpoint.relative_to(source.path)
        target.parent.mkdir(parents=True)
        rotate_checkpoint(checkpoint, target, directions.matrix, names.index(FIRST_LINEAR_WEIGHT))
        directions.save(temporary / "directions.safetensors")
        directions.save(temporary / "directions.csv")
        write_json(run.config_path, config)
    return directions
