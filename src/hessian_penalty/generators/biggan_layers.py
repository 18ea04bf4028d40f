"""Layers of the BigGAN generator: spectral norm, conditional batch norm, residual up-blocks, self-attention.

Names and shapes of parameters are those of the widely used PyTorch checkpoint. Everything is for evaluation: batch norm
takes its stored statistics, and weights are held divided by their singular values.

Sources: Brock et al., "Large Scale GAN Training for High Fidelity Natural Image Synthesis", ICLR 2019, appendix B;
Miyato et al., "Spectral Normalization for Generative Adversarial Networks", ICLR 2018, algorithm 1; Zhang et al.,
"Self-Attention Generative Adversarial Networks", ICML 2019, §3.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

NORM_EPSILON = 1e-5  # of batch norm
SPECTRAL_EPSILON = 1e-6  # smallest length that the power iteration divides by


def singular_value(weight: Float[Tensor, "out *rest"], u: Float[Tensor, "1 out"]) -> Float[Tensor, ""]:
    r"""Return :math:`\sigma = \|W v\|` with :math:`v = W^T u / \|W^T u\|`, for W as a matrix with a row an output.

    One power iteration from u, which is the largest singular value where u is the first left singular vector. σ is
    proportional to W: divided by it, a weight has σ = 1 for the same u.

    Source: Miyato et al., ICLR 2018, algorithm 1.

    >>> singular_value(torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([[1.0, 0.0]]))
    tensor(3.)
    """
    matrix = weight.flatten(1)
    v = F.normalize(u @ matrix, dim=1, eps=SPECTRAL_EPSILON)  # (1, in)
    sigma: Tensor = (matrix @ v.T).norm()
    return sigma


class SpectralLayer(nn.Module):
    r"""A weight W, held as :math:`W / \sigma(W)`, and a bias.

    What `load_state_dict` reads is divided at once. A weight that was divided before has σ = 1 and stays as it is, so
    the state can be saved and loaded again, here or by an implementation that divides in each pass.

    Args:
        shape: of the weight, outputs first.
        bias: whether there is one.

    Attributes:
        u0: (1, out), left vector from which the power iteration starts.
        sv0: (1,), singular value of the weight as it is held.
    """

    weight: Tensor
    bias: Tensor | None
    u0: Tensor
    sv0: Tensor

    def __init__(self, shape: tuple[int, ...], *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(shape[0]), requires_grad=False) if bias else None
        self.register_buffer("u0", torch.empty(1, shape[0]))
        self.register_buffer("sv0", torch.ones(1))
        self.register_load_state_dict_post_hook(_divide_loaded)  # type: ignore[no-untyped-call]  # untyped in PyTorch

    @torch.no_grad()
    def draw(self, rng: torch.Generator | None) -> None:
        """Draw an orthogonal weight, all of whose singular values are 1, and the vector u0."""
        nn.init.orthogonal_(self.weight, generator=rng)
        self.u0.copy_(F.normalize(self.u0.normal_(generator=rng), dim=1))


@torch.no_grad()
def _divide_loaded(layer: SpectralLayer, _: Any) -> None:
    # Not in place: after `load_state_dict(assign=True)` the tensors are those of the user's dictionary.
    layer.weight.data = layer.weight / singular_value(layer.weight, layer.u0)
    layer.sv0 = torch.ones_like(layer.sv0)


class SpectralLinear(SpectralLayer):
    """Dense layer with spectral norm."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__((out_features, in_features), bias=bias)

    def forward(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch out"]:
        return F.linear(x, self.weight, self.bias)


class SpectralConv2d(SpectralLayer):
    """Convolution with spectral norm; odd kernel, "same" padding."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__((out_channels, in_channels, kernel, kernel), bias=bias)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch out height width"]:
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class StoredNorm(nn.Module):
    r"""Batch norm by stored statistics: :math:`a_c (x - \mu_c) / \sqrt{\sigma_c^2 + 10^{-5}} + b_c`.

    Attributes:
        stored_mean: (channels,).
        stored_var: (channels,).
    """

    stored_mean: Tensor
    stored_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def normalized(
        self,
        x: Float[Tensor, "batch channels height width"],
        gain: Float[Tensor, "#batch channels"],
        bias: Float[Tensor, "#batch channels"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Normalise, scale by a gain and add a bias."""
        scale = gain * torch.rsqrt(self.stored_var + NORM_EPSILON)
        shift = bias - self.stored_mean * scale
        return torch.addcmul(shift[:, :, None, None], x, scale[:, :, None, None])

    @torch.no_grad()
    def set_statistics(self, x: Float[Tensor, "batch channels height width"]) -> None:
        """Store the statistics of a batch."""
        self.stored_mean.copy_(x.mean(dim=(0, 2, 3)))
        self.stored_var.copy_(x.var(dim=(0, 2, 3), correction=0))


class ConditionalNorm(StoredNorm):
    r"""Batch norm whose gain :math:`1 + W_g y` and bias :math:`W_b y` depend on the condition y."""

    def __init__(self, channels: int, condition_dim: int) -> None:
        super().__init__(channels)
        self.gain = SpectralLinear(condition_dim, channels, bias=False)
        self.bias = SpectralLinear(condition_dim, channels, bias=False)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], y: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.normalized(x, 1 + self.gain(y), self.bias(y))


class OutputNorm(StoredNorm):
    """Batch norm with a learned gain and bias, the same for all images."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.gain = nn.Parameter(torch.ones(channels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return self.normalized(x, self.gain[None], self.bias[None])


def _doubled(x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height2 width2"]:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class UpBlock(nn.Module):
    """Residual block that doubles height and width.

    Norm, ReLU, doubling, 3×3, norm, ReLU, 3×3; added to it the doubled input after a 1×1 convolution, which is done
    before doubling: the result is the same for a quarter of the work.

    Source: Brock et al., ICLR 2019, figure 15 (b).
    """

    def __init__(self, in_channels: int, out_channels: int, condition_dim: int) -> None:
        super().__init__()
        self.conv1 = SpectralConv2d(in_channels, out_channels, 3)
        self.conv2 = SpectralConv2d(out_channels, out_channels, 3)
        self.conv_sc = SpectralConv2d(in_channels, out_channels, 1)
        self.bn1 = ConditionalNorm(in_channels, condition_dim)
        self.bn2 = ConditionalNorm(out_channels, condition_dim)

    def forward(
        self, x: Float[Tensor, "batch channels height width"], y: Float[Tensor, "batch condition"]
    ) -> Float[Tensor, "batch out height2 width2"]:
        h = self.conv1(_doubled(F.relu(self.bn1(x, y))))  # (N, out, 2H, 2W)
        h = self.conv2(F.relu(self.bn2(h, y)))
        return torch.as_tensor(h + _doubled(self.conv_sc(x)))


class SelfAttention(nn.Module):
    r"""Every pixel adds what it finds at others: :math:`x + \gamma\, o(\sum_k \beta_{qk}\, g(x)_k)`.

    :math:`\beta_{qk}` is the softmax over k of :math:`\theta(x)_q \cdot \phi(x)_k`; keys and values are the maxima of
    2×2 pixels. γ starts at 0.

    Source: Zhang et al., ICML 2019, §3; the pooling is of Wang et al., "Non-local Neural Networks", CVPR 2018, §3.3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = SpectralConv2d(channels, channels // 8, 1, bias=False)
        self.phi = SpectralConv2d(channels, channels // 8, 1, bias=False)
        self.g = SpectralConv2d(channels, channels // 2, 1, bias=False)
        self.o = SpectralConv2d(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        queries = self.theta(x).flatten(2)  # (N, C/8, HW)
        keys = F.max_pool2d(self.phi(x), 2).flatten(2)  # (N, C/8, HW/4)
        values = F.max_pool2d(self.g(x), 2).flatten(2)  # (N, C/2, HW/4)
        weights = torch.softmax(queries.transpose(1, 2) @ keys, dim=2)  # (N, HW, HW/4)
        found = (values @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])  # (N, C/2, H, W)
        return torch.as_tensor(x + self.gamma * self.o(found))
