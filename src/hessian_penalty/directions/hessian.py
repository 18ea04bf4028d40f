"""Discovery by joint diagonalisation of Hessian sketches: minutes at most, no training."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from hessian_penalty.directions.hessian_gradient import HessianGradientSearch, descend
from hessian_penalty.directions.joint_diagonalization import joint_diagonalize, off_diagonal_energies
from hessian_penalty.directions.method import Found, Method, Progress, Space, shifted
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.directions.sketches import hessian_sketches
from hessian_penalty.errors import check_number
from hessian_penalty.penalty.conditions import Conditions

POLISH_BATCH = HessianGradientSearch.batch_size
POLISH_EVALUATIONS = 2 * HessianGradientSearch.k * POLISH_BATCH  # a step


@dataclass(frozen=True)
class HessianSearch(Method):
    r"""Joint diagonalisation of the Hessians of all image elements, sampled by sketches.

    A round draws fresh latents, sketches there along the current directions (second differences see kinks at the
    scale `epsilon`, which depends on the direction), and diagonalises all sketches so far. At a kink a second
    difference can be so large that one sketch outweighs hundreds: those larger than the median are scaled down to it.

    Penalties of two bases are compared sketch by sketch on held-out ones: a round's basis, which rests on more sketches
    than the last, is taken unless it is worse by more than the standard error of that difference, or no better than the
    given basis. Rounds end when the penalty neither falls nor rises by more than `smallest_gain`, as surely as that
    error allows to say.

    The basis is square: it minimises the penalty over all orthonormal A. For fewer directions take the most active of
    its rows; a search for few directions would prefer dead ones, whose penalty is 0.

    Args:
        sketches: per round; a few hundred stand for millions of elements.
        held_out: sketches that only judge.
        rounds: at most.
        epsilon: step of the differences of gradients.
        eta: latents are moved along one of the current directions each, by a number from U(-eta, eta), as the
            published search does with 5; 0 searches among the generator's own latents.
        batch_size: latents a pass of G; bounds memory but for the sketches themselves, 8 n² bytes each.
        smallest_gain: relative fall of the held-out penalty that is worth a round.
        polish: steps of gradient descent from the basis found (see `HessianGradientSearch`, whose other settings it
            takes), kept if the held-out penalty falls; 0 is none. A few hundred, where a little is left to gain.

    Source: joint diagonalisation after Cardoso & Souloumiac (1996), criterion of Peebles et al. (ECCV 2020), §5.
    """

    name: ClassVar[str] = "hessian"

    sketches: int = 256
    held_out: int = 96
    rounds: int = 3
    epsilon: float = 0.1
    eta: float = 0.0
    batch_size: int = 128
    smallest_gain: float = 0.01
    polish: int = 0

    def __post_init__(self) -> None:
        for name in ("sketches", "held_out", "rounds", "batch_size"):
            check_number(name, getattr(self, name), 1)
        check_number("epsilon", self.epsilon, 1e-6)
        check_number("eta", self.eta, 0)
        check_number("smallest_gain", self.smallest_gain, 0)
        check_number("polish", self.polish, 0)

    def evaluations(self, dim: int) -> int:
        """Evaluations of G with their gradient, if no round is left out."""
        judged = self.held_out * (1 + self.rounds + (self.polish > 0))
        return 2 * dim * (judged + self.rounds * self.sketches) + self.polish * POLISH_EVALUATIONS

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Search; see the class. What is kept are sketches: a search that goes on takes them instead of its own."""
        return _Search(self, space, rng, progress, state).run()


class _Search:
    """One search: its random numbers, its progress and what it has computed."""

    def __init__(
        self,
        settings: HessianSearch,
        space: Space,
        rng: torch.Generator,
        progress: Progress | None,
        state: SearchState | None,
    ) -> None:
        self.settings, self.space, self.rng, self.state = settings, space, rng, state
        self._progress = progress
        self._kept: dict[str, Tensor] = (state.load() if state else None) or {}
        self._given: list[str] = []  # names of the groups of sketches so far
        self._held_out_shrinkage: Tensor | None = None
        self._done, self._total = 0, settings.evaluations(space.dim)

    def run(self) -> Found:
        settings = self.settings
        held_out_seed = self._seed()
        basis = torch.eye(self.space.dim, dtype=torch.float64)  # its rows are directions, in coordinates of the space
        best, curvature = self._judge(basis, held_out_seed)
        given, penalties = best.mean().clamp(min=torch.finfo(best.dtype).tiny), [1.0]
        pool = torch.empty(0, *basis.shape, dtype=torch.float64)
        for _ in range(settings.rounds):
            pool = torch.cat([pool, self._sketches(settings.sketches, basis, self._seed())])
            candidate = joint_diagonalize(pool * _shrinkage(pool)[:, None, None])
            energies, candidate_curvature = self._judge(candidate, held_out_seed)
            penalties.append(float(energies.mean() / given))
            gain, error = _fall(best, energies)
            if gain >= -error and energies.mean() < given:
                best, basis, curvature = energies, candidate, candidate_curvature
            if abs(gain) + error <= settings.smallest_gain * float(energies.mean()):
                break
        if settings.polish:
            candidate = self._polished(basis)
            energies, candidate_curvature = self._judge(candidate, held_out_seed)
            penalties.append(float(energies.mean() / given))
            gain, error = _fall(best, energies)
            if gain > error:
                basis, curvature = candidate, candidate_curvature
        if self._progress:
            self._progress(self._total, self._total)
        return Found(
            basis @ self.space.rows,
            curvature,
            {"held_out_penalties": penalties, "evaluations": self._done},
        )

    def _polished(self, basis: Tensor) -> Tensor:
        """The basis after some steps of descent on the penalty itself."""
        settings = self.settings
        descent = HessianGradientSearch(
            steps=settings.polish, batch_size=POLISH_BATCH, epsilon=settings.epsilon, eta=settings.eta
        )
        rng = torch.Generator(self.rng.device).manual_seed(self._seed())
        return descend(self.space, basis, descent, rng=rng, on_step=lambda kept: self._advance(POLISH_EVALUATIONS))

    def _judge(self, basis: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Penalties along a basis, one for each held-out sketch, always the same ones; and the rows' curvature."""
        turned = basis @ self._sketches(self.settings.held_out, basis, seed) @ basis.T
        if self._held_out_shrinkage is None:  # of the first basis, for all: they are compared sketch by sketch
            self._held_out_shrinkage = _shrinkage(turned)
        curvature = turned.diagonal(dim1=1, dim2=2).square().mean(dim=0).sqrt()
        return off_diagonal_energies(turned) * self._held_out_shrinkage.square(), curvature

    def _sketches(self, count: int, basis: Tensor, seed: int) -> Tensor:
        """Sketches in coordinates of the space, by differences along a basis."""
        rng = torch.Generator(self.rng.device).manual_seed(seed)
        along = basis @ self.space.rows
        z, conditions = self.space.sample(count, rng)
        z = shifted(z, along, self.settings.eta, rng)
        seeds = torch.randint(2**31, (count,), generator=rng, device=rng.device).cpu()
        of_samples = Conditions.for_batch(conditions, count)
        parts = []
        for rows in torch.arange(count).split(self.settings.batch_size):
            on_pass = partial(self._advance, len(rows))
            name = f"group.{len(self._given)}"
            if name in self._kept:
                self._advance(2 * len(along) * len(rows))
            else:
                self._kept[name] = hessian_sketches(
                    self.space, z[rows], of_samples.select(rows), along=along,
                    epsilon=self.settings.epsilon, seeds=seeds[rows], on_pass=on_pass,
                )  # fmt: skip
                if self.state:
                    self.state.save(self._kept)
            self._given.append(name)
            parts.append(self._kept[name])
        return basis.T @ torch.cat(parts) @ basis

    def _advance(self, evaluations: int) -> None:
        self._done += evaluations
        if self._progress:
            self._progress(self._done, self._total)

    def _seed(self) -> int:
        return int(torch.randint(2**31, (), generator=self.rng, device=self.rng.device))


def _shrinkage(sketches: Tensor) -> Tensor:
    """Factors that scale sketches larger than the median one down to it; 1 where the median is 0."""
    sizes = sketches.flatten(1).norm(dim=1)
    median = sizes.median()
    return (median / sizes).clamp(max=1) if median > 0 else torch.ones_like(sizes)


def _fall(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Mean fall of a penalty over the same sketches, and its standard error."""
    falls = before - after
    error = falls.std() / len(falls) ** 0.5 if len(falls) > 1 else falls.new_zeros(())
    return float(falls.mean()), float(error)
