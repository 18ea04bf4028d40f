"""Directions in a latent space: what they are, how active each is, where they came from; on disk and in use."""

import csv
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path


@dataclass(frozen=True)
class Directions:
    """Unit directions d_i in latent space, one a row: the columns of the paper's A.

    Args:
        matrix: (count, latent_dim), float32, unit rows.
        activeness: mean image variance along each row (MATHS: Mean(Var(G))), or None where not measured.
        curvature: root mean square second derivative along each row, or None.
        provenance: generator, method, seed, settings: what is needed to find them again.

    Raises:
        UserError: no matrix of floating-point numbers with at least one row, rows that are not unit vectors, or
            lengths that differ.
    """

    matrix: Float[Tensor, "count latent"]
    activeness: Float[Tensor, " values"] | None = None
    curvature: Float[Tensor, " values"] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.matrix.ndim != 2 or not len(self.matrix) or not self.matrix.is_floating_point():
            raise UserError(
                "`matrix` must be a floating-point tensor of shape (count, latent_dim) with at least one row, got "
                f"{self.matrix.dtype} of shape {tuple(self.matrix.shape)}; give a direction a row."
            )
        norms = self.matrix.norm(dim=1)
        if not bool(torch.isfinite(norms).all()) or float((norms - 1).abs().max()) > 1e-3:
            raise UserError(
                f"`matrix` must have unit rows, got norms from {float(norms.min()):g} to {float(norms.max()):g}; "
                "divide each row by its norm."
            )
        for name in ("activeness", "curvature"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.matrix):
                raise UserError(f"`{name}` must have one value per row ({len(self.matrix)}), got {len(values)}.")

    def __len__(self) -> int:
        return len(self.matrix)

    def edit(self, z: Float[Tensor, "batch latent"], index: int, amount: float) -> Float[Tensor, "batch latent"]:
        """Latents moved along one direction: z + amount · d_index.

        >>> Directions(torch.eye(3)).edit(torch.zeros(1, 3), 1, 2.0)
        tensor([[0., 2., 0.]])

        Raises:
            UserError: no such direction, or z of another size.
        """
        if not -len(self) <= index < len(self):
            raise UserError(f"`index` must lie in [0, {len(self) - 1}], got {index}.")
        if z.shape[1] != self.matrix.shape[1]:
            raise UserError(f"`z` must have {self.matrix.shape[1]} components like the directions, got {z.shape[1]}.")
        return z + amount * self.matrix[index].to(z)

    def save(self, path: str | Path) -> None:
        """Write `.safetensors` (exact, with provenance) or `.csv` (one row a direction, to read or plot).

        Raises:
            UserError: another suffix.
        """
        path = Path(path)
        if path.suffix not in (".safetensors", ".csv"):
            raise UserError(f"Directions are saved as .safetensors or .csv, got {path.name!r}.")
        optional = {"activeness": self.activeness, "curvature": self.curvature}
        measured = {name: values for name, values in optional.items() if values is not None}
        with atomic_path(path) as temporary:
            if path.suffix == ".safetensors":
                tensors = {"matrix": self.matrix, **measured}
                metadata = {"provenance": json.dumps(self.provenance)}
                copies = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
                save_file(copies, temporary, metadata)  # which refuses tensors that share memory
            else:
                with temporary.open("w", newline="") as file:
                    writer = csv.writer(file)
                    writer.writerow(["direction", *measured, *(f"z{i}" for i in range(self.matrix.shape[1]))])
                    for index, row in enumerate(self.matrix.tolist()):
                        writer.writerow([index, *(float(values[index]) for values in measured.values()), *row])

    @classmethod
    def load(cls, path: str | Path) -> "Directions":
        """Read a `.safetensors` file that `save` wrote, or a published `.pt` matrix by `read_published`.

        Raises:
            UserError: missing, damaged, or not a directions file.
        """
        if Path(path).suffix == ".pt":
            from hessian_penalty.directions.published import read_published

            return read_published(path)
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            matrix = tensors["matrix"]
            provenance = json.loads(metadata.get("provenance", "{}"))
        except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise UserError(f"{path} cannot be read as directions: {error}. Expected what `save` wrote.") from None
        try:
            return cls(matrix, tensors.get("activeness"), tensors.get("curvature"), provenance)
        except UserError as error:
            raise UserError(f"{path} cannot be read as directions: {error}") from None
