"""Discovery as published with the Hessian Penalty: gradient descent on an orthonormal matrix."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hessian_penalty.directions.descent import (
    ADAM,
    block_means,
    check_init,
    gradients,
    orthonormal_rows,
    starting_rows,
)
from hessian_penalty.directions.method import Found, Method, Progress, Space, shifted
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.optimizer_state import load_optimizer_tensors, optimizer_tensors
from hessian_penalty.penalty.second_differences import hessian_penalty


@dataclass(frozen=True)
class HessianGradientSearch(Method):
    r"""The published search: Adam on A, with the Hessian Penalty of its path through the latents as the loss.

    $$A^* = \arg\min_A \mathbb{E}_{z, w}\, L_H\big(w \mapsto G(z + A w)\big), \qquad A^T A = I$$

    with w one component other than 0, drawn from U(-eta, eta). A is square, and made orthonormal in every step by a QR
    decomposition, through which the gradient goes. A start where the penalty is stationary stays there: for
    :math:`G = z_0 z_1` the coordinates are the worst basis, and "coordinates" returns them.

    The defaults are the published settings, but for what a small machine cannot do: published are a batch of 96 (over
    4 GPUs) and 50 epochs of 1000 steps each.

    Args:
        steps: of Adam; 50,000 as published.
        learning_rate: of Adam.
        batch_size: latents a step, each with 2k evaluations of G that keep their graph; bounds memory. Published 96.
        k: probes of the penalty.
        epsilon: step of the penalty's second differences.
        eta: w is drawn from U(-eta, eta).
        init: "random" orthonormal rows or the "coordinates" of the space.

    Source: Peebles et al., "The Hessian Penalty" (ECCV 2020), §5.

    >>> from hessian_penalty.generators.function_generator import FunctionGenerator
    >>> G = FunctionGenerator(lambda z: (z[:, 0] * z[:, 1])[:, None, None, None], latent_dim=2)
    >>> search = HessianGradientSearch(steps=60, learning_rate=0.1, batch_size=4)
    >>> found = search.search(Space(G, torch.eye(2, dtype=torch.float64)), rng=torch.Generator().manual_seed(0))
    >>> found.rows.abs().round(decimals=1)  # the Hessian of z0·z1 is diagonal along the diagonals
    tensor([[0.7000, 0.7000],
            [0.7000, 0.7000]], dtype=torch.float64)
    """

    name: ClassVar[str] = "hessian-gradient"

    steps: int = 1000
    learning_rate: float = 0.01
    batch_size: int = 32
    k: int = 2
    epsilon: float = 0.1
    eta: float = 5.0
    init: str = "random"

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1)
        check_number("learning_rate", self.learning_rate, 0)
        check_number("batch_size", self.batch_size, 1)
        check_number("k", self.k, 2)
        check_number("epsilon", self.epsilon, 1e-6)
        check_number("eta", self.eta, 0)
        check_init(self.init)

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Search; see the class. What is kept is all that the next step depends on."""
        latest = (state.load() if state else None) or {}

        def on_step(tensors: dict[str, Tensor]) -> None:
            latest.update(tensors)
            if state:
                state.save(tensors)
            if progress:
                progress(int(tensors["step"]), self.steps)

        start = starting_rows(self.init, space.dim, rng)
        basis = descend(space, start, self, rng=rng, kept=dict(latest), on_step=on_step)
        return Found(
            basis @ space.rows,
            notes={
                "penalties": block_means(latest["penalties"]),
                "evaluations": 2 * self.k * self.batch_size * self.steps,
            },
        )


def descend(
    space: Space,
    start: Float[Tensor, "dim dim"],
    settings: HessianGradientSearch,
    *,
    rng: torch.Generator,
    kept: Mapping[str, Tensor] | None = None,
    on_step: Callable[[dict[str, Tensor]], None] | None = None,
) -> Float[Tensor, "dim dim"]:
    """Lower the penalty from a basis on, with Adam.

    Args:
        space: generator and subspace.
        start: its rows are directions in coordinates of the space; float64, on the CPU, of full rank.
        settings: all of the search's but its `init`.
        rng: of every draw.
        kept: what `on_step` got, to go on from there instead of the start; sets the state of `rng`.
        on_step: called after each step with "step", the "penalties" so far, and all else from which to go on; the
            tensors change with the next step.

    Returns:
        Orthonormal rows in coordinates of the space, those after the last step.

    Raises:
        UserError: no gradient reaches the latents, the penalty is not finite, or G does not suit it.

    >>> from hessian_penalty.generators.function_generator import FunctionGenerator
    >>> space = Space(FunctionGenerator(torch.nn.Linear(2, 3), 2), torch.eye(2, dtype=torch.float64))
    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> polished = descend(space, eye, HessianGradientSearch(steps=2, eta=0.0), rng=torch.Generator())
    >>> bool((polished @ polished.T - eye).abs().max() < 1e-12)
    True
    """
    A = start.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([A], lr=settings.learning_rate)
    penalties = torch.zeros(settings.steps, dtype=torch.float64)
    done = 0
    if kept:
        done = int(kept["step"])
        penalties[:done] = kept["penalties"]
        with torch.no_grad():
            A.copy_(kept["A"])
        load_optimizer_tensors(optimizer, kept, ADAM)
        rng.set_state(kept["rng"])
    path = PathPenalty(space, settings)
    for step in range(done + 1, settings.steps + 1):
        try:
            with torch.enable_grad():
                penalty = path.penalty(orthonormal_rows(A), rng)
                gradient = gradients(penalty, [A])[0]
        except UserError:
            raise
        except (TypeError, ValueError) as error:
            raise UserError(f"Step {step} of the search failed: {error}") from error
        penalties[step - 1] = penalty.detach()
        if not bool(torch.isfinite(gradient).all() and torch.isfinite(penalty)):
            raise UserError(
                f"The penalty or its gradient is not finite at step {step} of the search (penalty "
                f"{float(penalty.detach()):g}); lower `eta`, whose points may lie beyond the generator's latents, or "
                "check its weights."
            )
        A.grad = gradient
        optimizer.step()
        if on_step:
            on_step(
                {
                    "step": torch.tensor(step),
                    "penalties": penalties[:step],
                    "A": A.detach(),
                    "rng": rng.get_state(),
                    **optimizer_tensors(optimizer, ADAM),
                }
            )
    return orthonormal_rows(A.detach())


class PathPenalty:
    """The penalty of w -> G(z + A w) at fresh points, as a function of A.

    As a callable it is that path. One object serves a whole descent: the penalty makes sure of every new callable that
    it is a function, which costs a pass. All corners are evaluated a batch at a time, so the conditions of the samples
    need no repetition.
    """

    def __init__(self, space: Space, settings: HessianGradientSearch) -> None:
        self._G, self._space, self._settings = space.G, space, settings
        self._z, self._along = torch.empty(0), torch.empty(0)
        self._conditions: Mapping[str, Any] = {}

    def __call__(self, w: Float[Tensor, "batch dim"]) -> Any:
        return self._G(self._z + w @ self._along, **self._conditions)

    def penalty(self, basis: Float[Tensor, "dim latent"], rng: torch.Generator) -> Float[Tensor, ""]:
        """Draw latents, w and probes, and estimate the penalty; its gradient reaches the rows of the basis."""
        settings = self._settings
        self._z, self._conditions = self._space.sample(settings.batch_size, rng)
        self._along = (basis @ self._space.rows).to(self._z)  # (dim, latent)
        nowhere = self._z.new_zeros(len(self._z), len(basis))
        w = shifted(nowhere, torch.eye(len(basis)), settings.eta, rng)
        return hessian_penalty(self, w, k=settings.k, epsilon=settings.epsilon, reduction="mean", rng=rng)
