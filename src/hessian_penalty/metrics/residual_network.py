"""A small residual network for measures that have to learn something from images, and its training."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from hessian_penalty.errors import UserError, check_number
from hessian_penalty.metrics.progress import Progress

FIRST_WIDTH, WIDTH = 16, 32  # channels after the stem, and of all blocks
MAP_PIXELS = 4  # of the last feature map, which is flattened: its pixels tell places apart
WARM_UP = 0.15  # of the steps
WEIGHT_DECAY = 0.01


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, beside a mean over 2x2 pixels and a 1x1 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.skip = nn.Conv2d(before, after, 1)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch after half_height half"]:
        return F.relu(self.residual(x) + self.skip(F.avg_pool2d(x, 2)), inplace=True)


class ResidualNetwork(nn.Module):
    """Images (N, channels, size, size) → (N, outputs): 41,000 parameters at 32 pixels.

    A stem with stride 2 and residual blocks halve the image down to 4x4 pixels, which are flattened before the last
    linear layer: a mean over them would forget where things are. Forward and backward take 3,500 images of 32 pixels a
    second on one core. PyTorch's global random numbers are left alone.

    Args:
        channels: of an image.
        size: height and width, a power of two from 8.
        outputs: numbers to predict.
        rng: of the initial weights.

    Raises:
        UserError: `size` is no power of two from 8.

    >>> ResidualNetwork(3, 16, 5, torch.Generator().manual_seed(0))(torch.zeros(2, 3, 16, 16)).shape
    torch.Size([2, 5])
    """

    def __init__(self, channels: int, size: int, outputs: int, rng: torch.Generator) -> None:
        super().__init__()
        if size < 8 or size & (size - 1):
            raise UserError(f"The network takes square images of a power of two from 8 pixels, got {size} pixels.")
        blocks = (size // MAP_PIXELS).bit_length() - 2  # the stem halves once
        widths = [FIRST_WIDTH, *[WIDTH] * blocks]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(torch.randint(2**31, (), generator=rng, device=rng.device)))
            self.layers = nn.Sequential(
                nn.Conv2d(channels, FIRST_WIDTH, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(FIRST_WIDTH),
                nn.ReLU(inplace=True),
                *(ResidualBlock(before, after) for before, after in pairwise(widths)),
                nn.Flatten(),
                nn.Linear(widths[-1] * MAP_PIXELS**2, outputs),
            )
        # A quarter faster on a CPU; PyTorch's overloads lack this form, which its documentation has.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch outputs"]:
        outputs: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return outputs


@torch.enable_grad()
def train_network(
    network: nn.Module,
    loss: Callable[[Int[Tensor, " batch"]], Float[Tensor, ""]],
    count: int,
    *,
    images_seen: int,
    batch_size: int,
    learning_rate: float,
    rng: torch.Generator,
    progress: Progress | None = None,
) -> None:
    """Train a network by AdamW on shuffled batches, and leave it in evaluation mode.

    The learning rate rises linearly, then falls to 0 by a cosine. Equal generators give equal networks.

    Args:
        loss: mean loss of the network at the rows of a batch, of which there are at least two.
        count: rows to learn from, at least 2; batches are of at most so many.
        images_seen: steps times batch size, with repetitions.
        learning_rate: the highest.
        rng: on the CPU; of the order of rows.

    Raises:
        UserError: a loss is not finite.
    """
    check_number("count", count, 2)
    batch_size = min(batch_size, count)
    steps = max(1, images_seen // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    order = torch.empty(0, dtype=torch.int64)
    network.train()
    for step in range(steps):
        if len(order) < batch_size:  # what is left of a round is left out
            order = torch.randperm(count, generator=rng)
        rows, order = order[:batch_size], order[batch_size:]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _rate(step, steps)
        value = loss(rows)
        if not bool(torch.isfinite(value)):
            raise UserError(
                f"The loss is {float(value.detach()):g} at step {step + 1} of training a network; check the images, "
                "which must be finite numbers."
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if progress:
            progress(step + 1, steps)
    network.eval()


def _rate(step: int, steps: int) -> float:
    """The learning rate of a step as a fraction of the highest."""
    return min((step + 1) / (WARM_UP * steps), 1.0) * (1 + math.cos(math.pi * step / steps)) / 2
