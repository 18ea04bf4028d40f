import math

import pytest
import torch

from hessian_penalty.training.losses import critic_loss, generator_loss, r1_penalty


def test_logistic_losses_from_their_definition():
    real, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    sigmoid = torch.sigmoid
    expected = -(sigmoid(real).log().mean() + (1 - sigmoid(fake)).log().mean())
    assert float(critic_loss(real, fake)) == pytest.approx(float(expected), rel=1e-6)
    assert float(generator_loss(fake)) == pytest.approx(float(-sigmoid(fake).log().mean()), rel=1e-6)


def test_losses_stay_finite_for_extreme_scores():
    assert math.isfinite(float(critic_loss(torch.tensor([-1e4]), torch.tensor([1e4]))))


def test_r1_of_a_linear_critic_is_half_its_squared_weight():
    weight = torch.randn(3, 4, 4, dtype=torch.float64)
    reals = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    scores = (reals * weight).sum(dim=(1, 2, 3))
    assert float(r1_penalty(scores, reals)) == pytest.approx(0.5 * float(weight.square().sum()), rel=1e-12)


def test_r1_has_a_gradient_for_the_critic():
    weight = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    reals = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    r1_penalty((reals * weight).sum(dim=(1, 2, 3)), reals).backward()
    assert torch.allclose(weight.grad, weight.detach())
