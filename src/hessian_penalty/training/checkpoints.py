"""A training state as safetensors and JSON: nothing in a checkpoint can run code when it is read."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hessian_penalty.generators.loading import save_module
from hessian_penalty.optimizer_state import optimizer_tensors
from hessian_penalty.runs import atomic_path


def save_checkpoint(
    path: Path,
    modules: dict[str, nn.Module],
    optimizers: dict[str, torch.optim.Optimizer],
    rng_states: dict[str, Tensor],
    state: dict[str, Any],
) -> None:
    """Write a checkpoint folder atomically: one safetensors file a module and optimiser, `rng`, and `state.json`."""
    with atomic_path(path) as temporary:
        temporary.mkdir(parents=True)
        for name, module in modules.items():
            save_module(module, temporary / f"{name}.safetensors")
        for name, optimizer in optimizers.items():
            tensors = {key: value.contiguous() for key, value in optimizer_tensors(optimizer).items()}
            save_file(tensors, temporary / f"{name}_optimizer.safetensors")
        save_file(rng_states, temporary / "rng.safetensors")
        (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")
