"""Discovery by joint diagonalisation of Hessian sketches: minutes at most, no training."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.directions.joint_diagonalization import joint_diagonalize, off_diagonal_energy
from hessian_penalty.directions.sketches import hessian_sketches
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.protocol import Generator

Progress = Callable[[int, int], None]  # (sketches done, sketches at most)


@dataclass(frozen=True)
class FoundBasis:
    """What a search ends with: orthonormal rows, and the held-out penalty before and after."""

    basis: Tensor  # (n, n), float64
    curvature: Tensor  # (n,), root mean square second derivative along each row, summed over image elements
    penalties: tuple[float, ...]  # held-out, relative to the given basis: 1.0, then one a round

    def record(self) -> dict[str, Any]:
        """For provenance."""
        return {"held_out_penalties": list(self.penalties)}


@dataclass(frozen=True)
class HessianSearch:
    """Joint diagonalisation of the Hessians of all image elements, sampled by sketches.

    A round draws fresh latents, sketches there along the current directions (second differences see kinks at the
    scale `epsilon`, which depends on the direction), and diagonalises all sketches so far. Rounds end when the
    penalty on held-out sketches has stopped falling; the best basis so far, the given one included, is returned, so
    that the held-out penalty never rises.

    Args:
        sketches: per round; a few hundred stand for millions of elements.
        held_out: sketches that only judge.
        rounds: at most.
        epsilon: step of the differences of gradients.
        batch_size: latents a pass of G; bounds memory.
        smallest_gain: relative fall of the held-out penalty below which rounds end.
    """

    sketches: int = 256
    held_out: int = 96
    rounds: int = 3
    epsilon: float = 0.1
    batch_size: int = 192
    smallest_gain: float = 0.01

    def __post_init__(self) -> None:
        for name in ("sketches", "held_out", "rounds", "batch_size"):
            check_number(name, getattr(self, name), 1)
        check_number("epsilon", self.epsilon, 1e-6)
        check_number("smallest_gain", self.smallest_gain, 0)

    def record(self) -> dict[str, Any]:
        """For provenance."""
        return dataclasses.asdict(self)

    def run(
        self, G: Generator, *, rng: torch.Generator, progress: Progress | None = None, **conditions: Any
    ) -> FoundBasis:
        """Search; see the class.

        Raises:
            UserError: G gives no gradient, or images that are not finite.
        """
        held_out_z = G.sample_latents(self.held_out, rng)
        held_out_seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        basis = torch.eye(G.latent_dim, dtype=torch.float64)  # n×n algebra stays on the CPU, in float64
        total = self.held_out + self.rounds * (self.sketches + self.held_out)
        done = 0

        def sketch(z: Tensor, along: Tensor, rng: torch.Generator) -> Tensor:
            nonlocal done
            parts = []
            for chunk in z.split(max(1, self.batch_size // (2 * G.latent_dim))):
                parts.append(
                    hessian_sketches(
                        G, chunk, basis=along, epsilon=self.epsilon, batch_size=self.batch_size, rng=rng, **conditions
                    )
                )
                done += len(chunk)
                if progress:
                    progress(done, total)
            found = torch.cat(parts)
            if not torch.isfinite(found).all():
                raise UserError("G gives images or gradients that are not finite at ordinary latents; check its input.")
            return found

        def judge(along: Tensor) -> tuple[float, Tensor]:
            """The held-out penalty along a basis, always with the same signs, and the curvature along its rows."""
            held_out = sketch(held_out_z, along, torch.Generator(rng.device).manual_seed(held_out_seed))
            turned = along @ held_out @ along.T
            return float(off_diagonal_energy(turned)), turned.diagonal(dim1=1, dim2=2).square().mean(0).sqrt()

        first, curvature = judge(basis)
        best, penalties, pool = first, [1.0], torch.empty(0, *basis.shape, dtype=torch.float64)
        for _ in range(self.rounds):
            pool = torch.cat([pool, sketch(G.sample_latents(self.sketches, rng), basis, rng)])
            candidate = joint_diagonalize(pool)
            penalty, candidate_curvature = judge(candidate)
            penalties.append(penalty / first if first > 0 else 1.0)
            gained = best - penalty
            if penalty < best:
                best, basis, curvature = penalty, candidate, candidate_curvature
            if gained <= self.smallest_gain * best:
                break
        if progress:
            progress(total, total)
        return FoundBasis(basis, curvature, tuple(penalties))
