"""Generators saved as programs: TorchScript and `torch.export` files.

What a file may do when it is opened (read in the source of PyTorch 2.13):

- `torch.jit.load` reads its data by a parser that builds tensors and TorchScript values, no Python objects, and runs no
  Python. The program itself may use every operator of TorchScript, those that write tensor files included.
- `torch.export.load` runs Python from the file: tensors marked as pickled are read with `weights_only=False`, further
  constants with `pickle.loads`, sample inputs that refuse `weights_only=True` without it, shape expressions by
  evaluation, and an operator may be any attribute path below `torch`. No setting turns this off; the environment
  variable TORCH_FORCE_WEIGHTS_ONLY_LOAD covers the first alone. PyTorch's own documentation says never to load such a
  file from an untrusted source.
"""

import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hessian_penalty.errors import UserError

NOT_A_PROGRAM = (
    "It may hold pickled Python objects or bare weights: those are never unpickled here, since a pickle runs code, "
    "and weights alone do not say what network they belong to. Save the generator with torch.jit.save (TorchScript), "
    "or write a small function that builds it and give path/to/file.py:function, or use biggan128:PATH for BigGAN-128 "
    "weights."
)
EXPORT_WITH_DYNAMIC_BATCH = (
    "Export it again with torch.export.export(G, (torch.zeros(2, {latent_dim}),), "
    'dynamic_shapes=({{0: torch.export.Dim("batch")}},)).'
)


def read_torchscript(path: Path, device: torch.device) -> tuple[nn.Module, int | None]:
    """Read a TorchScript module and the `latent_dim` that it stores, None where it does not.

    Scripting keeps an attribute `self.latent_dim = 12` of the module; tracing and freezing do not.

    Raises:
        UserError: the file holds no TorchScript program.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`torch.jit.load`", category=DeprecationWarning)
            module: nn.Module = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path} is not a TorchScript program. {NOT_A_PROGRAM}") from error
    stored = getattr(module, "latent_dim", None)
    return module, stored if isinstance(stored, int) else None


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger silent: PyTorch logs the traceback of an error that we report."""
    logger = logging.getLogger(name)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def read_exported(path: Path, device: torch.device) -> tuple[nn.Module, int]:
    """Read an exported program and the number of latents that it takes. This runs Python from the file.

    Raises:
        UserError: the file holds no exported program, or one that does not take batches of any size of one latent
            vector each.
    """
    from torch.export.passes import move_to_device_pass

    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not a zip archive")
        with _quiet("torch.export"):
            program = torch.export.load(path)
        program = move_to_device_pass(program, device)
    except Exception as error:
        raise UserError(
            f"{path} is not an exported program that PyTorch {torch.__version__} can read ({type(error).__name__}: "
            f"{error}). Expected what torch.export.save of this version wrote."
        ) from error
    return program.module(), _exported_latent_dim(path, program)


def _exported_latent_dim(path: Path, program: Any) -> int:
    """Return n of the program's input (batch, n), and refuse a batch that is not free."""
    shapes = {node.name: getattr(node.meta.get("val"), "shape", ()) for node in program.graph.nodes}
    inputs = program.graph_signature.user_inputs
    shape: Any = shapes[inputs[0]] if inputs and isinstance(inputs[0], str) else ()
    if len(inputs) != 1 or len(shape) != 2 or not isinstance(shape[1], int):
        raise UserError(
            f"{path} must take one input, latents of shape (batch, n) with fixed n; it takes {len(inputs)}, the first "
            f"of shape {tuple(shape)}. Export a module with such an input, other arguments set inside it."
        )
    latent_dim: int = shape[1]
    remedy = EXPORT_WITH_DYNAMIC_BATCH.format(latent_dim=latent_dim)
    if isinstance(shape[0], int):
        raise UserError(f"{path} only takes batches of {shape[0]}; batches of any size are needed. {remedy}")
    bounds = program.range_constraints.get(shape[0].node.expr)
    # A lower bound of 2 is what PyTorch writes where none was asked for, and is not checked.
    if bounds is not None and (bounds.lower > 2 or bounds.upper.is_Integer):
        raise UserError(
            f"{path} only takes batches of {bounds.lower} to {bounds.upper}; batches of any size are needed. {remedy}"
        )
    return latent_dim
