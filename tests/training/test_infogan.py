"""InfoGAN's term in a run: what it measures, and that it teaches both networks."""

import dataclasses

import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.training.config import InfoGANConfig
from hessian_penalty.training.infogan import information_loss
from hessian_penalty.training.session import start_run
from hessian_penalty.training.trainer import Trainer


def with_head(config, latents=2, **changes):
    return dataclasses.replace(config, infogan=InfoGANConfig(weight=1.0, latents=latents), **changes)


def test_the_first_latents_count():
    z = torch.tensor([[1.0, 2.0, 9.0], [0.0, -1.0, 9.0]])
    assert float(information_loss(z, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))) == (0 + 4 + 0 + 1) / 4
    assert float(information_loss(z, z)) == 0.0


@pytest.mark.parametrize("loss", ["logistic", "wgan-gp"])
def test_latents_become_legible(small_config, small_dataset, loss):
    """A head that knows nothing has an error of 1, the variance of a latent."""
    config = with_head(small_config, loss=loss, total_kimg=8.0)
    trainer = Trainer(config, small_dataset, accelerator="cpu")
    first = trainer.step()["information_loss"]
    for _ in range(250):
        last = trainer.step()["information_loss"]
    assert first > 0.8
    assert last < 0.5


def test_the_generator_helps(small_config, small_dataset, monkeypatch):
    """Where scores do not depend on images, the generator's gradient is that of the inference error."""
    trainer = Trainer(with_head(small_config), small_dataset, accelerator="cpu")
    state = trainer.state
    torch.nn.init.zeros_(state.critic.score.weight)
    monkeypatch.setattr(trainer._step, "_critic_step", lambda phase, dataset: {})
    z = state.ema.sample_latents(16, torch.Generator().manual_seed(small_config.seed))
    _, codes = state.critic.scores_and_codes(state.generator(z))
    expected = torch.autograd.grad(information_loss(z, codes), list(state.generator.parameters()))
    trainer.step()
    for (name, parameter), gradient in zip(state.generator.named_parameters(), expected, strict=True):
        assert gradient.any(), name
        assert torch.allclose(parameter.grad, gradient, atol=1e-6), name


def test_an_infogan_is_fine_tuned_as_one(small_config, small_dataset, small_run, tmp_path):
    with pytest.raises(UserError, match=r"infogan.latents is 2, but .* was trained with 0; a fine-tuning keeps it"):
        start_run(with_head(small_config), small_dataset, tmp_path / "run", finetune=small_run, accelerator="cpu")


@pytest.mark.parametrize(
    ("weight", "latents", "message"),
    [
        (1.0, 0, r"infogan.weight \(1\) and infogan.latents \(0\) go together"),
        (0.0, 2, r"infogan.weight \(0\) and infogan.latents \(2\) go together"),
        (-1.0, 2, "infogan.weight must be"),
        (1.0, -2, "infogan.latents must be"),
        (1.0, 5, r"infogan.latents must be at most generator.latent_dim \(4\), got 5"),
    ],
)
def test_mistakes(small_config, weight, latents, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(small_config, infogan=InfoGANConfig(weight=weight, latents=latents))
