"""Which terms make a critic's loss, with which weights."""

import contextlib
import dataclasses

import pytest
import torch
from torch import nn

from hessian_penalty.training.adversarial import make_adversarial
from hessian_penalty.training.config import TrainingConfig

SLOPE = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
CONFIG = TrainingConfig(gradient_weight=7.0, drift_weight=0.5, r1_gamma=3.0, r1_interval=4)


class Linear(nn.Module):
    """A critic whose gradient is known: D(x) = <slope, x>."""

    def forward(self, x):
        return (x * SLOPE).sum(dim=(1, 2, 3))


def images(seed):
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(step, **changes):
    game = make_adversarial(dataclasses.replace(CONFIG, **changes), contextlib.nullcontext, torch.Generator())
    fakes = images(2)
    return game.critic_loss(Linear(), images(1), Linear()(fakes), fakes, step=step, pixel_size=4.0)


def test_wgan_gp_has_gradient_penalty_and_drift_at_every_step():
    real, fake = Linear()(images(1)), Linear()(images(2))
    for step in (0, 1):
        loss, regularisation, figures = terms(step, loss="wgan-gp")
        assert loss.item() == pytest.approx(float(fake.mean() - real.mean()))
        penalty, drift = (float(SLOPE.norm()) / 4 - 1) ** 2, float((real**2).mean())
        assert regularisation.item() == pytest.approx(7 * penalty + 0.5 * drift, rel=1e-6)
        assert figures["gradient_penalty"].item() == pytest.approx(penalty)
        assert figures["drift"].item() == pytest.approx(drift, rel=1e-6)
        assert figures["score_margin"].item() == pytest.approx(float(real.mean() - fake.mean()))


def test_logistic_has_r1_at_every_fourth_step_times_four():
    r1 = 0.5 * float(SLOPE.norm()) ** 2 / 16
    _, regularisation, figures = terms(4)
    assert regularisation.item() == pytest.approx(3 * 4 * r1)
    assert figures["r1"].item() == pytest.approx(r1)
    _, regularisation, figures = terms(5)
    assert regularisation.item() == 0
    assert "r1" not in figures


def test_without_weights_there_is_no_regulariser():
    assert terms(0, r1_gamma=0.0)[1].item() == 0
    assert terms(0, loss="wgan-gp", gradient_weight=0.0, drift_weight=0.0)[1].item() == 0
