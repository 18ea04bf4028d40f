"""Discovery by a reconstructor that must tell directions apart (Voynov & Babenko)."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hessian_penalty.directions.descent import (
    ADAM,
    block_means,
    check_init,
    gradients,
    orthonormal_rows,
    starting_rows,
)
from hessian_penalty.directions.method import Found, Method, Progress, Space
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError, check_number
from hessian_penalty.optimizer_state import load_optimizer_tensors, optimizer_tensors

RECENT_STEPS = 100  # over which the final accuracy and shift error are taken
FIRST_WIDTH, MOST_WIDTH = 32, 256  # channels of the reconstructor


@dataclass(frozen=True)
class VoynovSearch(Method):
    r"""Directions whose effects are easy to tell apart: a matrix A and a reconstructor R are trained together.

    R sees an image and the same one after a shift s along direction k, and must tell both:

    $$\min_{A, R} \; \mathbb{E}_{z, k, s}\big[ -\log R_k(G(z), G(z + s a_k)) + \gamma\, |R_s(G(z), G(z + s a_k)) - s|
      \big]$$

    with s from U(-largest_shift, largest_shift), at least `smallest_shift` away from 0. R is a small convolutional
    network of ours in place of the published ResNet-18 or LeNet. The defaults are the published settings, but for the
    steps: published are 100,000, which take a GPU. With fewer a larger `learning_rate` moves A further.

    Args:
        steps: of Adam; 100,000 as published.
        learning_rate: of Adam, for A and for the reconstructor.
        batch_size: latents a step.
        largest_shift: bound of s.
        smallest_shift: smaller shifts are made this large, with their sign.
        shift_weight: γ, the weight of the shift's error.
        orthonormal: rows of A orthonormal (the best variant of the paper), or just unit vectors.
        init: "random" orthonormal rows or the "coordinates" of the space.

    Source: Voynov & Babenko, "Unsupervised Discovery of Interpretable Directions in the GAN Latent Space" (ICML 2020).

    >>> from hessian_penalty.generators.function_generator import FunctionGenerator
    >>> G = FunctionGenerator(lambda z: z[:, :, None, None].expand(-1, -1, 8, 8), latent_dim=3)
    >>> found = VoynovSearch(steps=2).search(
    ...     Space(G, torch.eye(3, dtype=torch.float64)), rng=torch.Generator().manual_seed(0)
    ... )
    >>> (found.rows @ found.rows.T).round(decimals=6).abs()
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]], dtype=torch.float64)
    """

    name: ClassVar[str] = "voynov"

    steps: int = 2000
    learning_rate: float = 1e-4
    batch_size: int = 32
    largest_shift: float = 6.0
    smallest_shift: float = 0.5
    shift_weight: float = 0.25
    orthonormal: bool = True
    init: str = "random"

    def __post_init__(self) -> None:
        check_number("steps", self.steps, 1)
        check_number("learning_rate", self.learning_rate, 0)
        check_number("batch_size", self.batch_size, 2)  # the reconstructor normalises over the batch
        check_number("largest_shift", self.largest_shift, 1e-6)
        check_number("smallest_shift", self.smallest_shift, 0, self.largest_shift)
        check_number("shift_weight", self.shift_weight, 0)
        check_init(self.init)

    @property
    def finds_rotation(self) -> bool:
        """Whether rows are made orthonormal."""
        return self.orthonormal

    def search(
        self,
        space: Space,
        *,
        rng: torch.Generator,
        progress: Progress | None = None,
        state: SearchState | None = None,
    ) -> Found:
        """Search; see the class. What is kept is all that the next step depends on."""
        training = _Training(self, space, rng)
        kept = state.load() if state else None
        if kept:
            training.restore(kept)
        while training.done < self.steps:
            training.step()
            if state:
                state.save(training.tensors())
            if progress:
                progress(training.done, self.steps)
        losses, accuracies, errors = training.history
        return Found(
            training.rows().detach() @ space.rows,
            notes={
                "losses": block_means(losses),
                "accuracy": float(accuracies[-RECENT_STEPS:].mean()),
                "shift_error": float(errors[-RECENT_STEPS:].mean()),
                "evaluations": 2 * self.batch_size * self.steps,
            },
        )


class Reconstructor(nn.Module):
    """A small convolutional network that tells from a pair of images along which direction and how far one moved.

    Blocks of a 3x3 convolution with stride 2, batch normalisation and leaky ReLU halve the image down to about 2x2
    pixels; their mean over pixels goes to two linear heads.

    Args:
        channels: of the pair, twice that of an image.
        size: the smaller side of an image.
        directions: how many there are to tell apart.

    >>> logits, shift = Reconstructor(channels=6, size=8, directions=5)(torch.zeros(2, 6, 8, 8))
    >>> logits.shape, shift.shape
    (torch.Size([2, 5]), torch.Size([2]))
    """

    def __init__(self, channels: int, size: int, directions: int) -> None:
        super().__init__()
        blocks = max(2, size.bit_length() - 2)
        widths = [channels, *(min(FIRST_WIDTH * 2**block, MOST_WIDTH) for block in range(blocks))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            convolution = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.direction = nn.Linear(widths[-1], directions)
        self.shift = nn.Linear(widths[-1], 1)

    def forward(
        self, pair: Float[Tensor, "batch channels height width"]
    ) -> tuple[Float[Tensor, "batch directions"], Float[Tensor, " batch"]]:
        features = self.features(pair).mean(dim=(2, 3))
        return self.direction(features), self.shift(features)[:, 0]


class _Training:
    """One search: matrix, reconstructor, optimiser, random numbers and what has been seen."""

    def __init__(self, settings: VoynovSearch, space: Space, rng: torch.Generator) -> None:
        self._settings, self._space, self._rng = settings, space, rng
        self._A = starting_rows(settings.init, space.dim, rng).requires_grad_()
        self._reconstructor = _reconstructor(space, rng)
        self._parameters = [self._A, *self._reconstructor.parameters()]
        self._optimizer = torch.optim.Adam(self._parameters, lr=settings.learning_rate)
        self.history = torch.zeros(3, settings.steps, dtype=torch.float64)  # loss, accuracy, shift error of each step
        self.done = 0

    def rows(self) -> Float[Tensor, "dim dim"]:
        """Directions in coordinates of the space."""
        return orthonormal_rows(self._A) if self._settings.orthonormal else F.normalize(self._A, dim=1)

    @torch.enable_grad()
    def step(self) -> None:
        z, conditions = self._space.sample(self._settings.batch_size, self._rng)
        chosen, shifts = (drawn.to(z.device) for drawn in self._draw())
        shifts = shifts.to(z)
        moves = shifts[:, None] * (self.rows() @ self._space.rows).to(z)[chosen]
        images = self._space.images(torch.stack((z, z + moves)), conditions)
        with torch.no_grad():
            still = next(images)
        (moved,) = images
        logits, predicted = self._reconstructor(torch.cat((still, moved), dim=1))
        error = (predicted - shifts).abs().mean()
        loss = F.cross_entropy(logits, chosen) + self._settings.shift_weight * error
        steepest = gradients(loss, self._parameters)
        if not bool(torch.isfinite(loss) and torch.isfinite(steepest[0]).all()):
            raise UserError(
                f"The loss or its gradient is not finite at step {self.done + 1} of the search (loss "
                f"{float(loss.detach()):g}); lower `learning_rate` or `largest_shift`, or check the "
                "generator's weights."
            )
        for parameter, gradient in zip(self._parameters, steepest, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        accuracy = (logits.argmax(dim=1) == chosen).double().mean()
        self.history[:, self.done] = torch.stack((loss.double(), accuracy, error.double())).detach().cpu()
        self.done += 1

    def _draw(self) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Draw directions and shifts."""
        settings, rng = self._settings, self._rng
        shape = (settings.batch_size,)
        chosen = torch.randint(self._space.dim, shape, generator=rng, device=rng.device)
        shifts = settings.largest_shift * (2 * torch.rand(shape, generator=rng, device=rng.device) - 1)
        return chosen, shifts.abs().clamp(min=settings.smallest_shift).copysign(shifts)

    def tensors(self) -> dict[str, Tensor]:
        """All that the next step depends on."""
        network = {f"reconstructor.{name}": value for name, value in self._reconstructor.state_dict().items()}
        return {
            "A": self._A.detach(),
            "history": self.history[:, : self.done],
            "rng": self._rng.get_state(),
            **network,
            **optimizer_tensors(self._optimizer, ADAM),
        }

    def restore(self, kept: Mapping[str, Tensor]) -> None:
        """Go on from what `tensors` gave."""
        with torch.no_grad():
            self._A.copy_(kept["A"])
        network = {name: kept[f"reconstructor.{name}"] for name in self._reconstructor.state_dict()}
        self._reconstructor.load_state_dict(network)
        load_optimizer_tensors(self._optimizer, kept, ADAM)
        self._rng.set_state(kept["rng"])
        self.done = kept["history"].shape[1]
        self.history[:, : self.done] = kept["history"]


def _reconstructor(space: Space, rng: torch.Generator) -> Reconstructor:
    """A reconstructor for this generator's images, where they are; torch's global random numbers are left alone.

    Raises:
        UserError: G does not return images.
    """
    z, conditions = space.sample(2, rng)
    with torch.no_grad():
        (images,) = space.images(z[None], conditions)
    if images.ndim != 4:
        raise UserError(
            f"The method needs images (batch, channels, height, width), got the shape {tuple(images.shape)}; let the "
            "generator return those, or choose a method that takes any output: 'hessian'."
        )
    seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = Reconstructor(2 * images.shape[1], min(images.shape[2:]), space.dim)
    return network.to(images)
