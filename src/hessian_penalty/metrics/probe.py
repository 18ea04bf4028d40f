"""A network that sees the ground-truth factors in images: what a factor audit is read through."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from hessian_penalty.cache import cached_tensors
from hessian_penalty.data.image_dataset import Factor, ImageDataset, sha256
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.progress import Progress
from hessian_penalty.metrics.residual_network import ResidualNetwork, train_network

VERSION = 1  # raise it with whatever changes a probe
FEWEST_IMAGES = 100
HELD_OUT = 0.2
EPOCHS, MOST_IMAGES_SEEN = 40, 100_000
BATCH_SIZE, LEARNING_RATE = 64, 1e-2
LARGEST_NOISE = 0.1  # standard deviation; images lie in [-1, 1]


def ordered_objects(factors: Sequence[Factor]) -> list[Factor]:
    """Make the object at the left the first one: where x0 > x1, all factors named "…0" and "…1" change places.

    Pictures of two objects do not tell which is which. Factors without x0 and x1 stay as they are.

    >>> first, second = (Factor(name, "continuous", np.array(v)) for name, v in (("x0", [1, 5]), ("x1", [2, 3])))
    >>> [factor.values.tolist() for factor in ordered_objects([first, second])]
    [[1, 3], [2, 5]]
    """
    by_name = {factor.name: factor for factor in factors}
    if not {"x0", "x1"} <= by_name.keys():
        return list(factors)
    swapped = by_name["x0"].values > by_name["x1"].values
    other_digit = {"0": "1", "1": "0"}
    ordered = []
    for factor in factors:
        partner = by_name.get(factor.name[:-1] + other_digit.get(factor.name[-1:], ""), factor)
        values = np.where(swapped, partner.values, factor.values)
        ordered.append(Factor(factor.name, factor.kind, values, factor.categories))
    return ordered


class _Head:
    """The outputs of the network for one factor: a standardised value, cosine and sine, or logits."""

    def __init__(self, factor: Factor) -> None:
        self.factor, self.name, self.categorical = factor, factor.name, factor.kind == "categorical"
        self.width = 2 if factor.kind == "circular" else 1
        if self.categorical:
            self.width = len(factor.categories) or int(factor.values.max()) + 1
        self.mean, self.deviation = 0.0, 1.0
        if factor.kind == "continuous":
            self.mean = float(factor.values.mean(dtype=np.float64))
            self.deviation = float(factor.values.std(dtype=np.float64)) or 1.0

    def targets(self) -> Tensor:
        """What the outputs should be: (images,) categories or (images, width) numbers."""
        values = torch.from_numpy(self.factor.values.astype(np.float64))
        if self.categorical:
            return values.long()
        if self.factor.kind == "circular":
            angles = 2 * math.pi * values
            return torch.stack((angles.cos(), angles.sin()), dim=1).float()
        return ((values - self.mean) / self.deviation)[:, None].float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) if self.categorical else F.mse_loss(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> float:
        """Accuracy, or R² of all columns together, which is 0 where the truth is constant."""
        if self.categorical:
            return float((outputs.argmax(dim=1) == targets).double().mean())
        spread = float((targets - targets.mean(dim=0)).double().square().sum())
        return 1 - float((outputs - targets).double().square().sum()) / spread if spread > 0 else 0.0

    def predicted(self, outputs: Tensor) -> Factor:
        """The factor as its outputs tell it."""
        values: NDArray[Any]
        if self.categorical:
            values = outputs.argmax(dim=1).numpy()
        elif self.factor.kind == "circular":
            cosine, sine = outputs.double().unbind(dim=1)
            values = (torch.atan2(sine, cosine) / (2 * math.pi)).numpy() % 1.0 % 1.0  # -1e-20 % 1 is 1
        else:
            values = (self.mean + self.deviation * outputs[:, 0].double()).numpy()
        return Factor(self.name, self.factor.kind, values, self.factor.categories)


class FactorProbe:
    """Images → factors, by a network that learned from data whose factors are known; see `trained_probe`.

    Args:
        factors: of the data, in the order in which they are predicted.
        channels: of the images.
        resolution: of the images.
        seed: of the network and its training.

    Attributes:
        scores: how well held-out data is predicted, by factor: R² of continuous ones, R² of cosine and sine together of
            circular ones, accuracy of categorical ones. 1 is best; guessing gives about 0, or `majority`.
        majority: held-out accuracy of always naming the commonest category, by categorical factor.

    Raises:
        UserError: `resolution` is no power of two from 8.
    """

    def __init__(self, factors: Sequence[Factor], channels: int, resolution: int, seed: int = 0) -> None:
        self.scores: dict[str, float] = {}
        self.majority: dict[str, float] = {}
        self._heads = [_Head(factor) for factor in factors]
        self._widths = [head.width for head in self._heads]
        self._shape = (channels, resolution, resolution)
        self._rng = torch.Generator().manual_seed(seed)
        self._network = ResidualNetwork(channels, resolution, sum(self._widths), self._rng).eval()

    @torch.no_grad()
    def __call__(self, batches: Iterable[Tensor]) -> list[Factor]:
        """Predict the factors of batches of images in [-1, 1], in the units and categories of the data.

        Raises:
            UserError: there is no image, or one of another shape than those of the training.
        """
        outputs = self._outputs(batches)
        return [head.predicted(columns) for head, columns in zip(self._heads, outputs, strict=True)]

    def _outputs(self, batches: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Of each head."""
        found = []
        for images in batches:
            if tuple(images.shape[1:]) != self._shape:
                raise UserError(
                    f"The probe was trained on images of the shape {self._shape}, got {tuple(images.shape[1:])}; train "
                    "one at the resolution of these images, on data with as many channels."
                )
            found.append(self._network(images.float().cpu()))
        if not found:
            raise UserError("A probe needs at least one image, got none.")
        outputs: tuple[Tensor, ...] = torch.cat(found).split(self._widths, dim=1)
        return outputs

    def train(self, dataset: ImageDataset, progress: Progress | None = None) -> None:
        """Learn from a random four fifths of the data, and be scored on the rest."""
        held_out, rows = torch.randperm(len(dataset), generator=self._rng).tensor_split(
            [round(HELD_OUT * len(dataset))]
        )
        targets = [head.targets() for head in self._heads]
        resolution = self._shape[-1]

        def loss(batch: Int[Tensor, " batch"]) -> Tensor:
            chosen = rows[batch]
            images = _augmented(dataset.batch(chosen.numpy(), resolution), self._rng)
            outputs = self._network(images).split(self._widths, dim=1)
            losses = [h.loss(o, t[chosen]) for h, o, t in zip(self._heads, outputs, targets, strict=True)]
            return torch.stack(losses).sum()

        train_network(
            self._network, loss, len(rows), images_seen=min(EPOCHS * len(rows), MOST_IMAGES_SEEN),
            batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, rng=self._rng, progress=progress,
        )  # fmt: skip
        with torch.no_grad():
            outputs = self._outputs(dataset.batch(chunk.numpy(), resolution) for chunk in held_out.split(256))
        for head, columns, target in zip(self._heads, outputs, targets, strict=True):
            self.scores[head.name] = head.score(columns, target[held_out])
            if head.categorical:
                commonest = target[rows].mode().values
                self.majority[head.name] = float((target[held_out] == commonest).double().mean())

    def tensors(self) -> dict[str, Tensor]:
        """What `load` takes."""
        found = {name: value.contiguous() for name, value in self._network.state_dict().items()}
        for kind, scores in (("score", self.scores), ("majority", self.majority)):
            found |= {f"{kind}:{name}": torch.tensor(score, dtype=torch.float64) for name, score in scores.items()}
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Become the trained probe whose `tensors` these are."""
        self._network.load_state_dict({name: value for name, value in tensors.items() if ":" not in name})
        self.scores = {head.name: float(tensors[f"score:{head.name}"]) for head in self._heads}
        self.majority = {head.name: float(tensors[f"majority:{head.name}"]) for head in self._heads if head.categorical}


def trained_probe(
    dataset: ImageDataset, resolution: int, *, seed: int = 0, progress: Progress | None = None
) -> FactorProbe:
    """The probe of a data set's factors, trained once and kept in the disk cache.

    Images are slightly blurred and noisy in training, as generated ones are; they are never moved or mirrored, which
    would change the factors. Of two objects the one at the left is the first: `ordered_objects`. On 4,000 images of 32
    pixels training takes 45 s on one core.

    Raises:
        UserError: the data has no factors or fewer than 100 images, or `resolution` does not fit.
    """
    factors = ordered_objects(dataset.factors())
    if not factors:
        raise UserError(
            f"{dataset.path} has no ground-truth factors, which a probe learns from. Data sets that `hessian-penalty "
            "render` makes have them, and dSprites and 3D Shapes as imported."
        )
    if len(dataset) < FEWEST_IMAGES:
        raise UserError(
            f"A probe needs at least {FEWEST_IMAGES} images to learn from, and {dataset.path} has {len(dataset)}; make "
            "the data set larger."
        )
    probe = FactorProbe(factors, dataset.batch([0], resolution).shape[1], resolution, seed)

    def make() -> dict[str, Tensor]:
        probe.train(dataset, progress)
        return probe.tensors()

    key = {
        "data": dataset.sha256 or sha256(dataset.path / "images.npy"),
        "factors": sha256(dataset.path / "factors.npz"),
        "kinds": [[factor.name, factor.kind, list(factor.categories)] for factor in factors],
        "resolution": resolution,
        "seed": seed,
        "version": VERSION,
    }
    probe.load(cached_tensors("probe", key, make))
    return probe


def _augmented(
    images: Float[Tensor, "batch channels height width"], rng: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Blend each image with its 3x3 box average and add noise, both by a random amount."""
    blur, noise = torch.rand(2, len(images), 1, 1, 1, generator=rng)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    augmented: Tensor = torch.lerp(images, blurred, blur)
    augmented += LARGEST_NOISE * noise * torch.randn(images.shape, generator=rng)
    return augmented
