"""What every discovery method gets and gives."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError, is_out_of_memory
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.penalty.conditions import Conditions, check_conditions
from hessian_penalty.penalty.elements import check_finite
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.replay import State, noise_of

Progress = Callable[[int, int], None]  # (done, total)
SMALLEST_INDEPENDENT = 1e-6  # the part of a unit row that the rows before it do not span


@contextmanager
def generator_errors(shape: Sequence[int]) -> Iterator[None]:
    """Turn what goes wrong in a generator that a user brought into a message.

    Args:
        shape: of the latents.

    Raises:
        UserError: instead of other errors, except where memory does not suffice.
    """
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        if is_out_of_memory(error):
            raise
        if isinstance(error, TypeError | ValueError):
            raise UserError(str(error)) from error
        raise UserError(
            f"The generator fails at latents of the shape {tuple(shape)}: {str(error).splitlines()[0].rstrip('.')}. "
            "Check the number of latents and the conditions."
        ) from error


@dataclass(frozen=True)
class Space:
    """Where to search: a frozen generator, and the subspace of its latents in which directions lie.

    Attributes:
        G: the generator.
        rows: orthonormal rows that span the subspace, float64 on the CPU; the identity for all latents.
        conditions: further arguments of G. The word "random" for an argument `labels` draws `G.sample_labels(count,
            rng)`, one for each latent; the same for any other name. A whole number for `labels` is the class of all
            latents, and comes to G as drawn ones do: a tensor with a number for each.
    """

    G: Generator
    rows: Float[Tensor, "dim latent"]
    conditions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Number of directions that the subspace has room for."""
        return self.rows.shape[0]

    def sample(self, count: int, rng: torch.Generator) -> tuple[Float[Tensor, "count latent"], Conditions]:
        """Draw latents, with the conditions that belong to them.

        Raises:
            UserError: a condition is "random", and G cannot draw it.
        """
        z = self.G.sample_latents(count, rng)
        drawn, given = {}, {}
        for name, value in self.conditions.items():
            if isinstance(value, str) and value == "random":
                sampler = getattr(self.G, f"sample_{name}", None)
                if sampler is None:
                    raise UserError(
                        f"`{name}='random'` needs a generator with `sample_{name}(count, rng)`, which "
                        f"{type(self.G).__name__} has not; give a value."
                    )
                drawn[name] = sampler(count, rng)
            elif name == "labels" and isinstance(value, int) and not isinstance(value, bool):
                drawn[name] = torch.full((count,), value, device=z.device)
            else:
                given[name] = value
        return z, Conditions(drawn, given)

    def images(
        self,
        points: Float[Tensor, "corners rows latent"],
        conditions: Mapping[str, Any],
        batch_size: int | None = None,
        start: State | None = None,
    ) -> Iterator[Float[Tensor, "rows *image"]]:
        """Yield G's images at every corner, in order: all corners see the same random numbers and buffers.

        Where G draws noise it is that of a seed made from the first corner: the same in every search and on resuming.

        Args:
            points: the same latents, moved in different ways.
            conditions: of one corner's latents.
            batch_size: most rows in a pass, but at least one corner; None passes one corner at a time.
            start: random numbers and buffers with which every pass begins, as `noise` gives them.

        Raises:
            UserError: G fails, is not a function of its latents, or returns something else than one finite tensor with
                a row for each of them.
        """
        with generator_errors(points.shape[1:]):
            start = start or self.noise(points[0], conditions)
            with full_precision(points.device.type):
                passes = Passes(Evaluator(self.G), points[0], conditions, start)
                for outputs in passes.at(points, chunk_size=batch_size, require_function=True):
                    if len(outputs) > 1:
                        raise ValueError(f"`G` must return one tensor of images, got {len(outputs)} tensors.")
                    if outputs[0].ndim < 2:
                        raise ValueError("`G` must return images, got one number for each latent.")
                    check_finite(outputs[0], 0)
                    yield outputs[0]

    def noise(self, z: Float[Tensor, "rows latent"], conditions: Mapping[str, Any]) -> State:
        """Return the random numbers and buffers with which passes at z begin: those of a seed made from z."""
        return noise_of(self.G, conditions, z)

    def fingerprint(self) -> str:
        """Return a short hash of some images: two generators with the same one may be taken for the same."""
        z, conditions = self.sample(2, torch.Generator().manual_seed(0))
        with torch.no_grad():
            (images,) = self.images(z[None], conditions)
        values = images.double().flatten().cpu()
        chosen = values[torch.linspace(0, len(values) - 1, 32).round().long()] / values.abs().max().clamp(min=1e-30)
        rounded = [f"{value:.2f}" for value in (*chosen.tolist(), float(chosen.std()))]
        return hashlib.sha256(" ".join([*rounded, str(tuple(images.shape))]).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Found:
    """What a search ends with.

    Attributes:
        rows: unit rows in latent space, float64 on the CPU; not in any order.
        curvature: root mean square second derivative along each row, summed over image elements, where known.
        notes: what the method has to say about its result, for the provenance.
    """

    rows: Float[Tensor, "count latent"]
    curvature: Float[Tensor, " count"] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method(ABC):
    """A way to find directions; its settings are the fields of a frozen dataclass.

    Attributes:
        name: in the field's words.
    """

    name: ClassVar[str]

    @abstractmethod
    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Find directions in the space, as many as it has room for unless the method can only find fewer.

        Args:
            space: generator and subspace.
            rng: of every draw.
            progress: called with what is done and what there is to do.
            state: where a long search keeps what it has, to go on from there; None keeps nothing.

        Raises:
            UserError: the method does not suit this generator.
        """

    @property
    def finds_rotation(self) -> bool:
        """Whether the rows found are orthonormal and as many as the space has room for: a generator can be rotated."""
        return True

    def record(self) -> dict[str, Any]:
        """Return method and settings, for the provenance."""
        return {"method": self.name, "settings": asdict(self)}


def subspace_rows(G: Generator, subspace: Any) -> Float[Tensor, "dim latent"]:
    """Return orthonormal rows that span a subspace of the latents.

    Args:
        G: the generator.
        subspace: None for all latents; a name that `G.subspaces` holds ("coarse"); a slice, a range or a sequence of
            component numbers; or a matrix of rows that span it.

    Raises:
        UserError: an unknown name, component numbers out of range or repeated, rows of another length or linearly
            dependent.

    >>> from hessian_penalty.generators.function_generator import FunctionGenerator
    >>> subspace_rows(FunctionGenerator(torch.sin, 3), slice(1, None))
    tensor([[0., 1., 0.],
            [0., 0., 1.]], dtype=torch.float64)
    """
    n = G.latent_dim
    if isinstance(subspace, str):
        named = getattr(G, "subspaces", {})
        if subspace not in named:
            known = ", ".join(named) or "none"
            raise UserError(f"`subspace` {subspace!r} is unknown; this generator names: {known}.")
        subspace = named[subspace]
    if subspace is None:
        subspace = slice(None)
    if isinstance(subspace, slice):
        if any(bound is not None and abs(bound) > n for bound in (subspace.start, subspace.stop)):
            raise UserError(f"`subspace` {subspace.start}:{subspace.stop} must lie in 0:{n}, the latents there are.")
        subspace = range(n)[subspace]
    try:
        chosen = torch.as_tensor(subspace if hasattr(subspace, "shape") else list(subspace)).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        chosen = torch.empty(())
    if chosen.ndim == 2:
        return _orthonormalized(chosen.double(), n)
    if chosen.ndim != 1 or (len(chosen) and (chosen.is_floating_point() or chosen.dtype == torch.bool)):
        raise UserError(f"`subspace` must be component numbers, a name or a matrix of rows, got {subspace!r}.")
    components = chosen.tolist()
    if not components or len(set(components)) < len(components) or not all(0 <= c < n for c in components):
        raise UserError(f"`subspace` must name different components, each in [0, {n - 1}], got {components or 'none'}.")
    return torch.eye(n, dtype=torch.float64)[components]


def _orthonormalized(rows: Tensor, n: int) -> Tensor:
    """Orthonormal rows that span the same, in the same order and of the same sign."""
    if rows.shape[1] != n:
        raise UserError(f"`subspace` must have rows of {n} components, got {rows.shape[1]}.")
    basis, triangle = torch.linalg.qr(nn.functional.normalize(rows, dim=1).T)
    if not 0 < len(rows) <= n or not float(triangle.diagonal().abs().min()) > SMALLEST_INDEPENDENT:
        raise UserError("`subspace` must have linearly independent rows of finite numbers, at least one.")
    orthonormal: Tensor = (basis * triangle.diagonal().sign()).T.contiguous()
    return orthonormal


def require_conditions(G: Generator, conditions: Mapping[str, Any]) -> None:
    """Refuse by name what G does not take.

    Raises:
        UserError: G takes no argument of that name.
    """
    try:
        check_conditions(G.function if isinstance(G, FunctionGenerator) else G, conditions)
    except TypeError as error:
        raise UserError(str(error)) from None


def shifted(
    z: Float[Tensor, "count latent"], along: Float[Tensor, "dim latent"], eta: float, rng: torch.Generator
) -> Float[Tensor, "count latent"]:
    r"""Move each latent along one of the directions, by a number from U(-eta, eta).

    Source: the published search's points, :math:`z + A w` with w one component other than 0.

    >>> shifted(torch.zeros(1, 2), torch.eye(2), 0.0, torch.Generator())
    tensor([[0., 0.]])
    """
    if eta == 0:
        return z
    chosen = torch.randint(len(along), (len(z),), generator=rng, device=rng.device).to(along.device)
    amounts = eta * (2 * torch.rand(len(z), 1, generator=rng, device=rng.device) - 1)
    return z + amounts.to(z) * along[chosen].to(z)
