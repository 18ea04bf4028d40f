"""The Wasserstein losses with gradient penalty and drift, as the Hessian Penalty's ProGANs are trained."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def critic_loss(real_scores: Float[Tensor, " batch"], fake_scores: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    r"""Wasserstein loss :math:`E[D(G(z))] - E[D(x)]`.

    Source: Arjovsky et al., "Wasserstein Generative Adversarial Networks", ICML 2017.
    """
    return fake_scores.mean() - real_scores.mean()


def generator_loss(fake_scores: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    r"""Wasserstein loss :math:`-E[D(G(z))]`."""
    return -fake_scores.mean()


def gradient_penalty(
    score: Callable[[Tensor], Tensor],
    reals: Float[Tensor, "batch channels height width"],
    fakes: Float[Tensor, "batch channels height width"],
    *,
    pixel_size: float = 1.0,
    rng: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    r""":math:`E[(\|\nabla_x D(\hat x)\| - 1)^2]` at mixtures :math:`\hat x = x + u (G(z) - x)`, u ~ U(0, 1).

    Args:
        score: the critic.
        reals, fakes: images, as many of the one as of the other.
        pixel_size: side of a pixel in pixels of the full resolution. The gradient is taken with respect to the image
            enlarged to that: each value is repeated s² times and has 1/s² of the gradient, so its norm is 1/s of the
            norm with respect to the small image.
        rng: generator of u, on the images' device.

    Source: Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017, eq. 3.
    """
    mixing = torch.rand(len(reals), 1, 1, 1, generator=rng, device=reals.device, dtype=reals.dtype)
    mixed = torch.lerp(reals.detach(), fakes.detach().to(reals), mixing).requires_grad_()
    (gradient,) = torch.autograd.grad(score(mixed).sum(), mixed, create_graph=True)
    norms = gradient.flatten(1).norm(dim=1) / pixel_size
    return torch.as_tensor((norms - 1).square().mean())


def drift(real_scores: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    r""":math:`E[D(x)^2]`, which keeps scores, determined up to a constant only, from drifting away.

    Source: Karras et al., "Progressive Growing of GANs", ICLR 2018, appendix A.1.
    """
    return real_scores.square().mean()
