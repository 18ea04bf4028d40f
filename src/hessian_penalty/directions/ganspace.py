"""Discovery by principal components of a layer's activations, carried back to the latents."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from hessian_penalty.directions.method import Found, Method, Progress, Space
from hessian_penalty.directions.principal_components import StreamedComponents
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.penalty.conditions import Conditions
from hessian_penalty.penalty.elements import check_finite
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.layers import match_layers
from hessian_penalty.penalty.precision import full_precision

SPARE_COMPONENTS = 32
MEAN_OF = 4096  # latents at a time in float64, whatever the batch size
IMAGES = "images"


@dataclass(frozen=True)
class GANSpaceSearch(Method):
    r"""Latent directions of the principal components of a layer's activations.

    With :math:`x_j` the principal coordinates of sample j's activations :math:`y_j`, the directions are the columns
    of :math:`U = \operatorname{argmin}_U \sum_j \lVert U x_j - z_j \rVert^2`. Principal coordinates are uncorrelated,
    so that each column stands alone and its length is no concern: :math:`u_k \propto C_{zy} v_k` with the
    eigenvector :math:`v_k` of the covariance :math:`C_{yy}` and the covariance :math:`C_{zy}` of latents and
    activations. Both come from one stream of samples. In a subspace the latents' coordinates there are regressed,
    which is the projection of U onto it, and the unit vectors are made afterwards.

    The rows are not orthogonal in general. There are fewer than the space has room for where the activations have
    fewer components (of more than 1e-10 of the largest variance), as those of a layer that reads only some latents.

    The components are exact up to 2048 features; for more, 2 dim + 32 of them are carried along, which is exact for
    activations that have no more (those of a layer that is linear in the latents, say), else close for the leading
    ones: see `StreamedComponents`. All latents are drawn and held at once, with the conditions that belong to them (512
    MB for a million of 128 components in float32); the memory for all else does not grow with the samples.

    Args:
        samples: latents; published with 1,000,000 for BigGAN.
        layer: name (or a glob that matches one name) of the module to read, which then has to run; of a module that
            runs several times in a pass, the first output. None takes the first module with weights, in the order in
            which modules finish, whose output follows the latents of the space: usually the dense layer that reads
            them. Where there is none, as in a generator that is no module, it takes the images.
        batch_size: samples a pass.

    Source: Härkönen et al., "GANSpace", NeurIPS 2020, §2.1.

    >>> from hessian_penalty.directions.discover import discover
    >>> G = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Unflatten(1, (2, 2, 2)))
    >>> discover(G, latent_dim=3, method=GANSpaceSearch(samples=500)).provenance["layer"]
    '0'
    """

    name: ClassVar[str] = "ganspace"

    samples: int = 10_000
    layer: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_number("samples", self.samples, 2)
        check_number("batch_size", self.batch_size, 1)

    @property
    def finds_rotation(self) -> bool:
        """No: principal components are orthogonal among the activations, not among the latents."""
        return False

    @torch.no_grad()
    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Search; see the class. What is kept are the moments of the samples so far.

        Raises:
            UserError: `layer` names no module, several, one that does not run or does not follow the latents.
        """
        z, conditions = space.sample(self.samples, rng)
        of_samples = Conditions.for_batch(conditions, self.samples)
        layer = self._layer_to_read(space, z, of_samples)
        read = _reader(space, layer)
        first = of_samples.select(torch.arange(2))
        before, after = (activations.clone() for activations in read(_exchanged(space, z), first))
        if torch.equal(before, after):
            what = "images" if layer is None else f"layer {layer!r}"
            raise UserError(
                f"The generator's {what} did not change with the latents that are searched; choose another `layer` or "
                "`subspace`."
            )
        mean = torch.stack([_coordinates(space, part).sum(dim=0) for part in z.split(MEAN_OF)]).sum(dim=0) / len(z)
        stream = StreamedComponents(mean, rank=2 * space.dim + SPARE_COMPONENTS, kept=state.load() if state else None)
        for start in range(stream.count, self.samples, self.batch_size):
            rows = torch.arange(start, min(start + self.batch_size, self.samples))
            batch = z[rows.to(z.device)]
            (activations,) = read(batch[None], of_samples.select(rows))
            stream.add(_coordinates(space, batch), activations.flatten(1).cpu().double())
            if state:
                state.save(stream.tensors)
            if progress:
                progress(stream.count, self.samples)
        notes = {"layer": layer or IMAGES, "features": stream.features, "evaluations": self.samples}
        return Found(stream.directions(space.dim) @ space.rows, notes=notes)

    def _layer_to_read(self, space: Space, z: Tensor, of_samples: Conditions) -> str | None:
        """The name of the module to read; None for the images."""
        module = _module(space)
        if self.layer is None:
            return None if module is None else _first_that_follows(module, _exchanged(space, z), of_samples)
        if module is None:
            raise UserError(
                "`layer` names a module of the generator, so that must be a torch.nn.Module, got "
                f"{type(_unwrapped(space)).__name__}; leave `layer` out to read its images."
            )
        try:
            matched = list(match_layers(module, self.layer))
        except ValueError as error:
            raise UserError(_of_one_layer(error)) from None
        if len(matched) > 1:
            raise UserError(f"`layer` must match one module, but {self.layer!r} matches {', '.join(matched)}.")
        return matched[0]


def _unwrapped(space: Space) -> Any:
    return space.G.function if isinstance(space.G, FunctionGenerator) else space.G


def _module(space: Space) -> nn.Module | None:
    """The module that a generator is or wraps."""
    found = Evaluator(_unwrapped(space)).G
    hooked = isinstance(found, nn.Module) and not isinstance(found, torch.jit.ScriptModule)  # which takes no hooks
    return found if hooked else None


def _coordinates(space: Space, z: Float[Tensor, "count latent"]) -> Float[Tensor, "count dim"]:
    """Coordinates of latents in the space, float64 on the CPU."""
    return z.cpu().double() @ space.rows.T


def _exchanged(space: Space, z: Tensor) -> Float[Tensor, "2 2 latent"]:
    """Two latents, and the same with their parts in the space exchanged."""
    rows = space.rows.to(z)
    return torch.stack([z[:2], z[:2] + (z[:2].flip(0) - z[:2]) @ rows.T @ rows])


def _first_that_follows(module: nn.Module, points: Float[Tensor, "2 2 latent"], of_samples: Conditions) -> str | None:
    """Name of the first module with weights whose output differs between two corners, in the order they finish."""
    outputs: list[tuple[str, Tensor]] = []

    def noting(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, output.clone()))

        return hook

    handles = [found.register_forward_hook(noting(name)) for name, found in _with_weights(module).items()]
    try:
        conditions = of_samples.select(torch.arange(2))
        runs = []
        for _ in Passes(Evaluator(module), points[0], conditions).at(points):
            runs.append(outputs.copy())
            outputs.clear()
    finally:
        for handle in handles:
            handle.remove()
    return next((name for (name, one), (_, other) in zip(*runs, strict=False) if not torch.equal(one, other)), None)


def _with_weights(module: nn.Module) -> dict[str, nn.Module]:
    """Named modules that hold parameters themselves, behind a parametrization or not."""
    named = match_layers(module, "*") if any(module.children()) else {}
    return {
        name: found
        for name, found in named.items()
        if is_parametrized(found) or any(True for _ in found.parameters(recurse=False))
    }


def _reader(space: Space, layer: str | None) -> Callable[[Tensor, Mapping[str, Any]], Iterator[Tensor]]:
    """How to get activations (rows, ...) at every corner of points: all corners see the same random numbers."""
    evaluate = None if layer is None else Evaluator(_unwrapped(space), layer)

    def read(points: Tensor, conditions: Mapping[str, Any]) -> Iterator[Tensor]:
        if evaluate is None:
            yield from space.images(points, conditions)
            return
        try:
            with full_precision(points.device.type):
                passes = Passes(evaluate, points[0], conditions, space.noise(points[0], conditions))
                for outputs in passes.at(points, most_outputs=1):
                    check_finite(outputs[0], 0)
                    yield outputs[0]
        except (TypeError, ValueError) as error:
            raise UserError(_of_one_layer(error)) from error

    return read


def _of_one_layer(error: Exception) -> str:
    return str(error).replace("`layers`", "`layer`")
