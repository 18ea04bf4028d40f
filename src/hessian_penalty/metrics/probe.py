"""A network that sees the ground-truth factors in images: what a factor audit is read through."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hessian_penalty.cache import cached_tensors
from hessian_penalty.data.image_dataset import Factor, ImageDataset, sha256
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.residual_network import Progress, ResidualNetwork, train_network

VERSION = 1  # raise it with whatever changes a probe
FEWEST_IMAGES = 100
HELD_OUT = 0.2
EPOCHS, MOST_IMAGES_SEEN = 40, 100_000
BATCH_SIZE, LEARNING_RATE = 64, 1e-2
LARGEST_NOISE = 0.1  # standard deviation; images lie in [-1, 1]


def ordered_objects(factors: Sequence[Factor]) -> list[Factor]:
    """Make the object at the left the first one: where x0 > x1, all factors named "…0" and "…1" change places.

    Data with two objects of a kind does not tell which is which. Factors without x0 and x1 stay as they are.

    >>> first, second = (Factor(name, "continuous", np.array(v)) for name, v in (("x0", [1, 5]), ("x1", [2, 3])))
    >>> [factor.values.tolist() for factor in ordered_objects([first, second])]
    [[1, 3], [2, 5]]
    """
    by_name = {factor.name: factor for factor in factors}
    if not {"x0", "x1"} <= by_name.keys():
        return list(factors)
    swapped = by_name["x0"].values > by_name["x1"].values
    ordered = []
    for factor in factors:
        stem, digit = factor.name[:-1], factor.name[-1]
        partner = by_name.get(stem + {"0": "1", "1": "0"}.get(digit, ""), factor)
        values = np.where(swapped, partner.values, factor.values)
        ordered.append(Factor(factor.name, factor.kind, values, factor.categories))
    return ordered


class FactorProbe:
    """Images → factors, by a network trained on data whose factors are known; see `trained_probe`.

    Args:
        factors: those of the data: their names, kinds and categories, and what fixes units.
        channels: of the images.
        resolution: of the images.
        seed: of the initial weights.

    Attributes:
        scores: how well held-out data is predicted, by factor: R² of continuous ones; R² of cosine and sine together of
            circular ones; accuracy of categorical ones. 1 is best, and a guess has about 0, or `majority`.
        majority: accuracy of always naming the commonest category, by categorical factor.
    """

    def __init__(self, factors: Sequence[Factor], channels: int, resolution: int, seed: int = 0) -> None:
        self.factors = tuple(factors)
        self.scores: dict[str, float] = {}
        self.majority: dict[str, float] = {}
        self._shape = (channels, resolution, resolution)
        self._widths = [_width(factor) for factor in self.factors]
        rng = torch.Generator().manual_seed(seed)
        self._network = ResidualNetwork(channels, resolution, sum(self._widths), rng)
        self._network.eval()
        self._units = [_units(factor) for factor in self.factors]

    @torch.no_grad()
    def __call__(self, batches: Iterable[Float[Tensor, "batch channels height width"]]) -> list[Factor]:
        """Predict the factors of images in [-1, 1], in the units and categories of the data.

        Raises:
            UserError: there is no image, or one of another shape than those of the training.
        """
        outputs = self._outputs(batches)
        predicted = [
            Factor(factor.name, factor.kind, _decoded(factor, columns, *units), factor.categories)
            for factor, columns, units in zip(
                self.factors, outputs.split(self._widths, dim=1), self._units, strict=True
            )
        ]
        return predicted

    def _outputs(self, batches: Iterable[Tensor]) -> Float[Tensor, "images outputs"]:
        found = []
        for images in batches:
            if tuple(images.shape[1:]) != self._shape:
                raise UserError(
                    f"The probe was trained on images of the shape {self._shape}, got {tuple(images.shape[1:])}; train "
                    "one at the resolution of the images, on data with as many channels."
                )
            found.append(self._network(images.float().cpu()))
        if not found:
            raise UserError("A probe needs at least one image, got none.")
        return torch.cat(found)

    def train(self, dataset: ImageDataset, seed: int, progress: Progress | None = None) -> None:
        """Learn from a seeded four fifths of the data, and be scored on the rest."""
        rng = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(dataset), generator=rng)
        rows, held_out = order.split([len(order) - round(HELD_OUT * len(order)), round(HELD_OUT * len(order))])
        targets = [_target(factor, *units) for factor, units in zip(self.factors, self._units, strict=True)]
        resolution = self._shape[-1]

        def loss(batch: Int[Tensor, " batch"]) -> Tensor:
            chosen = rows[batch]
            images = _augmented(dataset.batch(chosen.numpy(), resolution), rng)
            losses = [
                F.cross_entropy(output, target[chosen])
                if factor.kind == "categorical"
                else F.mse_loss(output, target[chosen])
                for factor, output, target in zip(
                    self.factors, self._network(images).split(self._widths, dim=1), targets, strict=True
                )
            ]
            return torch.stack(losses).sum()

        train_network(
            self._network, loss, len(rows), images_seen=min(EPOCHS * len(rows), MOST_IMAGES_SEEN),
            batch_size=BATCH_SIZE, learning_rate=LEARNING_RATE, rng=rng, progress=progress,
        )  # fmt: skip
        with torch.no_grad():
            outputs = self._outputs(dataset.batch(chunk.numpy(), resolution) for chunk in held_out.split(256))
        for factor, output, target in zip(self.factors, outputs.split(self._widths, dim=1), targets, strict=True):
            true = target[held_out]
            if factor.kind == "categorical":
                self.scores[factor.name] = float((output.argmax(dim=1) == true).double().mean())
                self.majority[factor.name] = float((true == target[rows].mode().values).double().mean())
            else:
                self.scores[factor.name] = _explained(output.double(), true.double())

    def tensors(self) -> dict[str, Tensor]:
        """All that `load` needs."""
        state = {name: value.detach().contiguous() for name, value in self._network.state_dict().items()}
        scores = {f"score:{name}": torch.tensor(score, dtype=torch.float64) for name, score in self.scores.items()}
        majority = {f"majority:{name}": torch.tensor(part, dtype=torch.float64) for name, part in self.majority.items()}
        return state | scores | majority

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Become the probe of which these are the `tensors`."""
        self._network.load_state_dict({name: value for name, value in tensors.items() if ":" not in name})
        for kind, found in (("score", self.scores), ("majority", self.majority)):
            found.clear()
            found.update({f.name: float(tensors[key]) for f in self.factors if (key := f"{kind}:{f.name}") in tensors})


def trained_probe(
    dataset: ImageDataset, resolution: int, *, seed: int = 0, progress: Progress | None = None
) -> FactorProbe:
    """The probe of a data set's factors, trained once and kept in the disk cache.

    Images are slightly blurred and noisy in training, as generated ones are; they are never moved or mirrored, which
    would change the factors. Where there are two objects, the one at the left is the first: `ordered_objects`. On 4,000
    images of 32 pixels training takes about 45 s on one core.

    Raises:
        UserError: the data has no factors or fewer than 100 images, or `resolution` does not fit.
    """
    factors = ordered_objects(dataset.factors())
    if not factors:
        raise UserError(
            f"{dataset.path} has no ground-truth factors, which a probe learns from. Data sets of `hessian-penalty "
            "render` and imported dSprites and 3D Shapes have them."
        )
    if len(dataset) < FEWEST_IMAGES:
        raise UserError(
            f"A probe needs at least {FEWEST_IMAGES} images to learn from, {dataset.path} has {len(dataset)}; make the "
            "data set larger."
        )
    probe = FactorProbe(factors, dataset.batch([0], resolution).shape[1], resolution, seed)

    def make() -> dict[str, Tensor]:
        probe.train(dataset, seed, progress)
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


def _width(factor: Factor) -> int:
    """Outputs of the network for a factor."""
    if factor.kind == "categorical":
        return len(factor.categories) or int(factor.values.max()) + 1
    return 2 if factor.kind == "circular" else 1


def _units(factor: Factor) -> tuple[float, float]:
    """Mean and standard deviation of a continuous factor; 1 where it is constant."""
    if factor.kind != "continuous":
        return 0.0, 1.0
    return float(factor.values.mean(dtype=np.float64)), float(factor.values.std(dtype=np.float64)) or 1.0


def _target(factor: Factor, mean: float, deviation: float) -> Tensor:
    """What the network's outputs for a factor should be."""
    values = torch.from_numpy(np.asarray(factor.values, np.float64))
    if factor.kind == "categorical":
        return values.long()  # (images,)
    if factor.kind == "circular":
        angles = 2 * math.pi * values
        return torch.stack((angles.cos(), angles.sin()), dim=1).float()  # (images, 2)
    return ((values - mean) / deviation)[:, None].float()  # (images, 1)


def _decoded(factor: Factor, columns: Tensor, mean: float, deviation: float) -> np.ndarray:
    """Outputs of the network as values of a factor."""
    if factor.kind == "categorical":
        return columns.argmax(dim=1).numpy()
    if factor.kind == "circular":
        cosine, sine = columns.double().unbind(dim=1)
        return (torch.atan2(sine, cosine) / (2 * math.pi)).remainder(1.0).numpy()
    return (mean + deviation * columns[:, 0].double()).numpy()


def _explained(predicted: Tensor, true: Tensor) -> float:
    """R², the columns pooled; 0 where the truth is constant."""
    spread = float((true - true.mean(dim=0)).square().sum())
    return 1 - float((predicted - true).square().sum()) / spread if spread > 0 else 0.0


def _augmented(
    images: Float[Tensor, "batch channels height width"], rng: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Blend each image with its 3x3 box average and add noise, both by a random amount."""
    blur, noise = torch.rand(2, len(images), 1, 1, 1, generator=rng)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.lerp(images, blurred, blur) + LARGEST_NOISE * noise * torch.randn(images.shape, generator=rng)
