"""The BigGAN generator for 128 pixels, written from Brock et al., "Large Scale GAN Training", ICLR 2019, appendix B."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hessian_penalty.errors import UserError, check_number
from hessian_penalty.generators.biggan_layers import (
    ConditionalNorm,
    OutputNorm,
    SelfAttention,
    SpectralConv2d,
    SpectralLayer,
    SpectralLinear,
    StoredNorm,
    UpBlock,
)

WIDTHS = (16, 16, 8, 4, 2, 1)  # feature maps at 4, 8, … 128 pixels, in units of `channels`
CHUNKS = len(WIDTHS)  # one part of the latent for the first layer, one for each block
BOTTOM_WIDTH = 4
ATTENTION_AFTER = 3  # number of the block that ends at 64 pixels


@dataclass(frozen=True)
class BigGANConfig:
    """Size of a BigGAN generator; the defaults are those of the published checkpoint.

    Args:
        channels: feature maps at 128 pixels; 16 times as many at 4 pixels.
        classes: number of classes.
        latent_dim: latent components, a sixth of them for the first layer and for each of the five blocks.
        shared_dim: length of a class's embedding, which all blocks share.

    Raises:
        UserError: a number is too small, or `latent_dim` is no multiple of 6.
    """

    channels: int = 96
    classes: int = 1000
    latent_dim: int = 120
    shared_dim: int = 128

    def __post_init__(self) -> None:
        check_number("generator.channels", self.channels, 4)
        check_number("generator.classes", self.classes, 1)
        check_number("generator.shared_dim", self.shared_dim, 1)
        if self.latent_dim < 1 or self.latent_dim % CHUNKS:
            raise UserError(
                f"generator.latent_dim must be a positive multiple of {CHUNKS}, one part for the first layer and one "
                f"for each block, got {self.latent_dim}."
            )

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels."""
        return int(BOTTOM_WIDTH * 2 ** (CHUNKS - 1))


def block_widths(channels: int) -> list[tuple[int, int]]:
    """Return the feature maps that each block takes and gives.

    >>> block_widths(96)
    [(1536, 1536), (1536, 768), (768, 384), (384, 192), (192, 96)]
    """
    return list(pairwise(channels * width for width in WIDTHS))


class BigGAN(nn.Module):
    r"""G: latents (N, n) and classes → images (N, 3, 128, 128) in [-1, 1]; satisfies `Generator`.

    The latent is cut into six parts. The first gives the 4×4 features by a dense layer. Each other one, after the
    embedding of the class, is the condition of a block: its batch norms have the gain :math:`1 + W_g [e, z_i]` and the
    bias :math:`W_b [e, z_i]`.

    It is frozen: parameters need no gradient, batch norm uses stored statistics in `train()` too, and spectral norm is
    done once, when weights are loaded (see `SpectralLayer`). Gradients flow to the latents.

    Args:
        config: size.
        rng: of the orthogonal weights, on the CPU; None takes PyTorch's. Batch statistics are 0 and 1, far from those
            of random weights: see `random_biggan`.

    Attributes:
        subspaces: names of parts of the latent for a search of directions: "all", and the thirds "coarse", "mid" and
            "fine", from the first layers to the last.

    Source: Brock et al., ICLR 2019, appendix B, table 4 and figure 15.

    >>> G = BigGAN(BigGANConfig(channels=4, classes=10))
    >>> G(G.sample_latents(2), labels=7).shape
    torch.Size([2, 3, 128, 128])
    """

    def __init__(self, config: BigGANConfig, rng: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.latent_dim = n = config.latent_dim
        self.subspaces = {
            "all": slice(0, n),
            "coarse": slice(0, n // 3),
            "mid": slice(n // 3, 2 * n // 3),
            "fine": slice(2 * n // 3, n),
        }
        self._part = n // CHUNKS
        widths = block_widths(config.channels)
        self.shared = nn.Embedding.from_pretrained(torch.empty(config.classes, config.shared_dim))
        self.linear = SpectralLinear(self._part, widths[0][0] * BOTTOM_WIDTH**2)
        self.blocks = nn.ModuleList(
            nn.ModuleList([UpBlock(before, after, config.shared_dim + self._part)]) for before, after in widths
        )
        cast(nn.ModuleList, self.blocks[ATTENTION_AFTER]).append(SelfAttention(widths[ATTENTION_AFTER][1]))
        last = widths[-1][1]
        self.output_layer = nn.Sequential(OutputNorm(last), nn.ReLU(), SpectralConv2d(last, 3, 3))
        if not self.linear.weight.is_meta:  # there is nothing to draw, and the attempt takes seconds
            self._draw(rng)
        self.eval()

    def _draw(self, rng: torch.Generator | None) -> None:
        nn.init.orthogonal_(self.shared.weight, generator=rng)
        for module in self.modules():
            if isinstance(module, SpectralLayer):
                module.draw(rng)

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Float[Tensor, "count latent"]:
        """Standard normal latents like the weights; drawn on the device of `rng` where it is given."""
        like = self.linear.weight
        drawn_on = rng.device if rng is not None else like.device
        return torch.randn(count, self.latent_dim, generator=rng, device=drawn_on).to(like)

    def sample_labels(self, count: int, rng: torch.Generator | None = None) -> Int[Tensor, " count"]:
        """Classes, all equally likely, on the generator's device; drawn on the device of `rng` where it is given."""
        device = self.linear.weight.device
        drawn_on = rng.device if rng is not None else device
        return torch.randint(self.config.classes, (count,), generator=rng, device=drawn_on).to(device)

    def forward(
        self, z: Float[Tensor, "batch latent"], labels: int | Tensor | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """Images.

        Args:
            z: latents.
            labels: a class for all of them, as a number or a tensor of one element, or a tensor of one for each.

        Raises:
            UserError: latents of another length; classes that are missing, out of range, or not one for each latent.
        """
        if z.shape[1] != self.latent_dim:
            raise UserError(f"`z` must have {self.latent_dim} components, got {z.shape[1]}.")
        embedding = self.shared(self._class_numbers(labels, z))  # (N, shared_dim)
        first, *others = z.split(self._part, dim=1)
        x = self.linear(first).unflatten(1, (-1, BOTTOM_WIDTH, BOTTOM_WIDTH))  # (N, C, 4, 4)
        for (up, *attention), part in zip(self._stages(), others, strict=True):
            x = up(x, torch.cat([embedding, part], dim=1))
            for layer in attention:
                x = layer(x)
        return torch.tanh(self.output_layer(x))

    def latent_weights(self) -> Float[Tensor, "out latent"]:
        r"""Stack the weights of all layers that read the latent: what SeFa takes the eigenvectors of.

        The dense layer, then gain and bias of the two batch norms of each block; 0 where a layer does not read a
        component. Divided by their singular values, as used.
        """
        read = [[self.linear.weight]]
        for up, *_ in self._stages():
            norms = cast(tuple[ConditionalNorm, ...], (up.bn1, up.bn2))
            read.append([layer.weight[:, -self._part :] for norm in norms for layer in (norm.gain, norm.bias)])
        stacked: Tensor = torch.block_diag(*(torch.cat(weights) for weights in read))
        return stacked

    def _stages(self) -> list[nn.ModuleList]:
        return cast(list[nn.ModuleList], list(self.blocks))

    def _class_numbers(self, labels: int | Tensor | None, z: Tensor) -> Tensor:
        most = self.config.classes - 1
        wanted = f"a class in [0, {most}], or an integer tensor of {len(z)} of them, one for each latent"
        if labels is None:
            raise UserError(f"`labels` is missing: BigGAN makes images of classes. Give {wanted}.")
        numbers = torch.as_tensor(labels)
        if numbers.dtype not in (torch.int32, torch.int64):
            raise UserError(f"`labels` must be {wanted}, got {numbers.dtype}; `labels.long()` makes them integers.")
        if numbers.ndim and numbers.shape not in (z.shape[:1], (1,)):
            raise UserError(f"`labels` must be {wanted}, got the shape {tuple(numbers.shape)}.")
        outside = numbers[(numbers < 0) | (numbers > most)]
        if len(outside):
            raise UserError(f"`labels` must be {wanted}, got {int(outside[0])}.")
        return numbers.to(z.device).expand(len(z))


def random_biggan(config: BigGANConfig, seed: int, *, count: int = 16) -> BigGAN:
    """BigGAN with random weights whose images are neither grey nor saturated, and vary: for benchmarks and tests.

    Weights are orthogonal. One batch of random latents and classes sets the statistics of every batch norm, as training
    does: what batch norms give has mean 0 and variance 1 before their gain and bias. Attention, which is off at the
    start of training (γ = 0), is on (γ = 1).

    Args:
        config: size.
        seed: of weights and batch.
        count: latents in the batch.

    >>> G = random_biggan(BigGANConfig(channels=4, classes=10), seed=0, count=8)
    >>> images = G(G.sample_latents(2, torch.Generator().manual_seed(1)), labels=0)
    >>> bool(images.var(dim=0).mean() > 0.01), bool((images.abs() > 0.99).float().mean() < 0.1)
    (True, True)
    """
    rng = torch.Generator().manual_seed(seed)
    G = BigGAN(config, rng)
    for module in G.modules():
        if isinstance(module, SelfAttention):
            module.gamma.fill_(1)
    hooks = [
        module.register_forward_pre_hook(_set_statistics) for module in G.modules() if isinstance(module, StoredNorm)
    ]
    with torch.no_grad():
        G(G.sample_latents(count, rng), G.sample_labels(count, rng))
    for hook in hooks:
        hook.remove()
    return G


def _set_statistics(norm: StoredNorm, inputs: tuple[Any, ...]) -> None:
    norm.set_statistics(inputs[0])
