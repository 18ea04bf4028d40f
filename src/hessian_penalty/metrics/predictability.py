"""Variation predictability: whether one sees from a pair of images which latent changed between them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.metrics.progress import Progress, told
from hessian_penalty.metrics.residual_network import ResidualNetwork, train_network
from hessian_penalty.penalty.conditions import Conditions
from hessian_penalty.penalty.evaluation import Evaluator, Passes
from hessian_penalty.penalty.replay import noise_of

LARGEST_VALUE = 2.0
PUBLISHED_TRAINING_PAIRS = 1000
SMALLEST_PIXELS, MOST_PIXELS = 8, 64  # what the network sees; larger images are box-averaged
EPOCHS, NETWORK_BATCH, LEARNING_RATE = 20, 32, 2e-2
FAINTEST = 1e-3  # of the mean size of all differences; fainter ones are not made as strong as the others


@dataclass(frozen=True)
class Predictability:
    """How often a network tells which latent changed.

    Args:
        accuracy: on held-out pairs, in [0, 1]; mean of the repeats.
        accuracies: of each repeat, with pairs and a network of its own.
        chance: accuracy of guessing, 1 / number of latents.
        training_pairs: from which each network learned; accuracies compare at equal numbers.
    """

    accuracy: float
    accuracies: tuple[float, ...]
    chance: float
    training_pairs: int


@torch.no_grad()
def variation_predictability(
    G: Generator,
    *,
    pairs: int = 2000,
    repeats: int = 3,
    train_fraction: float | None = None,
    latents: Sequence[int] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
    **conditions: Any,
) -> Predictability:
    """Variation predictability (VP): held-out accuracy of a network that tells which latent a pair differs in.

    Each pair is an image at latents from `G.sample_latents` and the same one with a random component redrawn from
    U(-2, 2), under the same noise. The network sees their difference, as in the published code, divided by its own root
    mean square (for the shipped GAN this alone raises the accuracy from 0.61 to 0.66); in training either image may be
    the first. It is scored once, after the last step, where the published code takes the best epoch on the held-out
    pairs. Larger images than 64 pixels are box-averaged.

    Of m latents that do nothing, all but one are beyond telling: no generator with n latents exceeds (n - m + 1) / n.
    Give the active ones as `latents` to leave them out.

    Source: Zhu, Xu & Tao, "Learning Disentangled Representations with Latent Variation Predictability", ECCV 2020:
    10,000 pairs, of which the published code trains on a tenth.

    Args:
        G: the generator, used as it is.
        pairs: in each repeat.
        repeats: fresh pairs and a fresh network each.
        train_fraction: of the pairs, to learn from; None takes 1,000 pairs, as published, but at most half.
        latents: components that may change; None takes all.
        batch_size: latents a pass of G; bounds memory.
        seed: of pairs and networks.
        progress: told after each repeat.
        conditions: further arguments of G; tensors with one entry for each of the pairs follow them.

    Raises:
        UserError: too few pairs or latents, a fraction outside (0, 1), or G does not return images.
    """
    check_number("pairs", pairs, 20)
    check_number("repeats", repeats, 1)
    check_number("batch_size", batch_size, 1)
    if train_fraction is None:
        train_fraction = min(0.5, PUBLISHED_TRAINING_PAIRS / pairs)
    check_number("train_fraction", train_fraction, 2 / pairs, 1 - 1 / pairs)
    training = round(train_fraction * pairs)
    components = _components(latents, G.latent_dim)
    rng = torch.Generator().manual_seed(seed)
    accuracies = []
    for _ in told(range(repeats), progress):
        changed = torch.randint(len(components), (pairs,), generator=rng)
        differences = _differences(G, components[changed], batch_size, rng, conditions)
        accuracies.append(_accuracy(differences, changed.to(differences.device), len(components), training, rng))
    return Predictability(sum(accuracies) / repeats, tuple(accuracies), 1 / len(components), training)


def _components(latents: Sequence[int] | None, latent_dim: int) -> Int[Tensor, " count"]:
    chosen = list(range(latent_dim)) if latents is None else list(latents)
    if len(chosen) < 2 or len(set(chosen)) < len(chosen) or not all(0 <= latent < latent_dim for latent in chosen):
        raise UserError(
            f"`latents` must be at least two different components in 0 ... {latent_dim - 1}, got {chosen}; leave it "
            "out to take all."
        )
    return torch.tensor(chosen)


def _differences(
    G: Generator, changed: Int[Tensor, " pairs"], batch_size: int, rng: torch.Generator, conditions: Mapping[str, Any]
) -> Float[Tensor, "pairs channels size size"]:
    """Image after the change minus image before it, at what the network sees."""
    z = G.sample_latents(len(changed), rng)
    values = LARGEST_VALUE * (2 * torch.rand(len(changed), generator=rng) - 1)
    moved = z.clone()
    moved[torch.arange(len(z)), changed] = values.to(z)
    points = torch.stack((z, moved))  # (2, pairs, latent)
    of_pairs = Conditions.for_batch(conditions, len(z))
    found = []
    for rows in torch.arange(len(z), device=z.device).split(max(1, batch_size // 2)):
        chunk = points[:, rows]
        chosen = of_pairs.select(rows)
        passes = Passes(Evaluator(G), chunk[0], chosen, noise_of(G, chosen, chunk[0]))
        before, after = (image for (image,) in passes.at(chunk, chunk_size=batch_size))
        if before.ndim != 4:
            raise UserError(
                f"The measure needs images (batch, channels, height, width), got the shape {tuple(before.shape)}; let "
                "the generator return those."
            )
        found.append(_seen(after - before))
    return torch.cat(found)


def _seen(
    differences: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels size size"]:
    """Averages over boxes, at the largest power of two that fits, in what the network takes."""
    fits = 1 << (min(differences.shape[2:]).bit_length() - 1)
    return F.adaptive_avg_pool2d(differences.float(), min(max(fits, SMALLEST_PIXELS), MOST_PIXELS))


def _accuracy(
    differences: Float[Tensor, "pairs channels size size"],
    changed: Int[Tensor, " pairs"],
    classes: int,
    training: int,
    rng: torch.Generator,
) -> float:
    """Train on the first pairs and score on the others."""
    sizes = differences.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    floor = FAINTEST * sizes[:training].mean() + torch.finfo(sizes.dtype).tiny
    inputs = differences / sizes.clamp(min=floor)
    network = ResidualNetwork(inputs.shape[1], inputs.shape[2], classes, rng).to(inputs.device)

    def loss(rows: Int[Tensor, " batch"]) -> Tensor:
        signs = 2 * torch.randint(2, (len(rows), 1, 1, 1), generator=rng) - 1
        return F.cross_entropy(network(signs.to(inputs) * inputs[rows]), changed[rows])

    train_network(
        network, loss, training, images_seen=EPOCHS * training, batch_size=NETWORK_BATCH, learning_rate=LEARNING_RATE,
        rng=rng,
    )  # fmt: skip
    predicted = torch.cat([network(chunk).argmax(dim=1) for chunk in inputs[training:].split(256)])
    return float((predicted == changed[training:]).double().mean())
