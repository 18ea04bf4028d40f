"""The adversarial losses: non-saturating logistic with R1 at the real images."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def critic_loss(real_scores: Float[Tensor, " batch"], fake_scores: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    r"""Logistic loss :math:`E[\log(1 + e^{-D(x)})] + E[\log(1 + e^{D(G(z))})]`.

    Source: Goodfellow et al., NeurIPS 2014.

    >>> round(float(critic_loss(torch.zeros(2), torch.zeros(2))), 4)  # 2 log 2
    1.3863
    """
    return F.softplus(-real_scores).mean() + F.softplus(fake_scores).mean()


def generator_loss(fake_scores: Float[Tensor, " batch"]) -> Float[Tensor, ""]:
    r"""Non-saturating loss :math:`E[\log(1 + e^{-D(G(z))})]`."""
    return F.softplus(-fake_scores).mean()


def r1_penalty(
    real_scores: Float[Tensor, " batch"], reals: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, ""]:
    r"""R1 :math:`\tfrac12 E[\|\nabla_x D(x)\|^2]` at the real images; multiply by γ.

    `reals` must require gradients. Source: Mescheder et al., "Which Training Methods for GANs do actually
    Converge?", ICML 2018, eq. 9.
    """
    (gradient,) = torch.autograd.grad(real_scores.sum(), reals, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()
