"""All that a run goes on from, in memory and as safetensors and JSON: a checkpoint can run no code when it is read."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_module, read_tensors, save_module
from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.generators.progan_critic import ProGANCritic
from hessian_penalty.optimizer_state import load_optimizer_tensors, optimizer_tensors
from hessian_penalty.penalty.regularizer import Regularizer
from hessian_penalty.runs import atomic_path, read_record


@dataclass
class TrainingState:
    """Networks, optimisers, random numbers and counters of a run.

    Args:
        generator, critic: the networks.
        ema: moving average of the generator.
        generator_optimizer, critic_optimizer: of their parameters.
        rng: of latents and probes.
        penalty: the regulariser; None for a vanilla run.
        images_seen: real images so far.
        steps: updates so far.
    """

    generator: ProGANGenerator
    critic: ProGANCritic
    ema: ProGANGenerator
    generator_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    rng: torch.Generator
    penalty: Regularizer | None
    images_seen: int = 0
    steps: int = 0

    @property
    def networks(self) -> dict[str, nn.Module]:
        """By the names of their files."""
        return {"generator": self.generator, "ema": self.ema, "critic": self.critic}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the names of their files."""
        return {"generator": self.generator_optimizer, "critic": self.critic_optimizer}

    @property
    def kimg(self) -> float:
        """Thousands of real images seen."""
        return self.images_seen / 1000

    def save(self, path: Path) -> None:
        """Write a checkpoint folder atomically: a safetensors file a module and optimiser, `rng`, and `state.json`."""
        state = {
            "kimg": self.kimg,
            "images_seen": self.images_seen,
            "steps": self.steps,
            "penalty": self.penalty.state_dict() if self.penalty else None,
        }
        with atomic_path(path) as temporary:
            temporary.mkdir(parents=True)
            for name, module in self.networks.items():
                save_module(module, temporary / f"{name}.safetensors")
            for name, optimizer in self.optimizers.items():
                tensors = {key: value.contiguous() for key, value in optimizer_tensors(optimizer).items()}
                save_file(tensors, temporary / f"{name}_optimizer.safetensors")
            save_file({"trainer": self.rng.get_state()}, temporary / "rng.safetensors")
            (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n")

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            UserError: it is damaged, of other networks, or of another kind of device.
        """
        self.load_networks(path)
        state, rng = read_record(path / "state.json"), read_tensors(path / "rng.safetensors")
        try:
            self.images_seen, self.steps = state["images_seen"], state["steps"]
            if self.penalty:
                self.penalty.load_state_dict(state["penalty"])
            rng_state = rng["trainer"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}); delete it to go on from an older checkpoint.") from None
        try:
            self.rng.set_state(rng_state)
        except RuntimeError:
            raise UserError(
                f"{path} was written on another kind of device than {self.rng.device}, whose random numbers cannot "
                "go on there: resume with the --accelerator that the run began with."
            ) from None

    def load_networks(self, path: Path, *, optimizers_required: bool = True) -> None:
        """Take networks and optimisers from a checkpoint, and nothing else.

        Args:
            optimizers_required: complain where the optimisers were left out; else Adam gathers its moments anew.

        Raises:
            UserError: a file is missing, damaged, or of networks of another shape.
        """
        for name, module in self.networks.items():
            load_module(module, path / f"{name}.safetensors")
        for name, optimizer in self.optimizers.items():
            file = path / f"{name}_optimizer.safetensors"
            if optimizers_required or file.exists():
                load_optimizer_tensors(optimizer, read_tensors(file))
