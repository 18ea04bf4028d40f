"""The state of an optimiser as named tensors, which safetensors files hold."""

from collections.abc import Mapping

import torch
from torch import Tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = "") -> dict[str, Tensor]:
    """Adam's moments and step counts, named `<prefix><parameter index>.<state name>`."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str = "") -> None:
    """Put back what `optimizer_tensors` gave, also among others; learning rate and betas stay the optimiser's own."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split(".", 1)
            state.setdefault(int(index), {})[name] = value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
