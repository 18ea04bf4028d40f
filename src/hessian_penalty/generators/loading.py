"""Read the generator of a run."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.runs import RunFolder, from_record


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        UserError: missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); take another checkpoint or train again.") from None


def load_module(module: nn.Module, path: Path) -> None:
    """Load a module's safetensors file, naming what does not fit. Half-precision tensors are widened.

    Raises:
        UserError: tensors are missing, unexpected or of another shape.
    """
    found, wanted = read_tensors(path), module.state_dict()
    problems = [f"missing {name}" for name in wanted.keys() - found.keys()]
    problems += [f"unexpected {name}" for name in found.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(found[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted.keys() & found.keys()
        if wanted[name].shape != found[name].shape
    ]
    if problems:
        raise UserError(
            f"{path} does not fit this network: {'; '.join(sorted(problems)[:5])}. "
            "Use the generator settings that it was trained with."
        )
    module.load_state_dict(found)


def save_module(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors, for `load_module`. Tensors that share memory are written one by one."""
    save_file(
        {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in module.state_dict().items()
        },
        path,
    )


def generator_config(run: RunFolder) -> ProGANConfig:
    """The generator's size from the run's config.json.

    Raises:
        UserError: the field is missing or unreadable.
    """
    record = run.config()
    if "generator" not in record:
        raise UserError(f"{run.config_path} has no field `generator`; it is not a run of `hessian-penalty train`.")
    return from_record(ProGANConfig, record["generator"], f"{run.config_path}: generator")


def load_generator(run: RunFolder, weights: Literal["ema", "generator"] = "ema") -> ProGANGenerator:
    """The newest checkpoint's generator, frozen, on the CPU.

    Args:
        weights: "ema", the moving average, whose images are the run's result; or the trained weights themselves.

    Raises:
        UserError: there is no checkpoint, or it does not fit.
    """
    generator = ProGANGenerator(generator_config(run))
    load_module(generator, run.latest_checkpoint() / f"{weights}.safetensors")
    return generator.eval().requires_grad_(False)
