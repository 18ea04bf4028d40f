"""The penalty of a run at the moving average of its generator."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.training.arithmetic import count_step
from hessian_penalty.training.config import PenaltyConfig, TrainingConfig
from hessian_penalty.training.regularization import AtAverage, make_penalty

SMALL = ProGANConfig(latent_dim=4, channels=(8, 8))
PENALTY = PenaltyConfig(weight=1.0, reduction="mean", scale_free=True, of_average=True)


def pair() -> tuple[ProGANGenerator, ProGANGenerator]:
    """A generator and a frozen average of other weights, in double precision."""
    torch.manual_seed(0)
    generator, average = ProGANGenerator(SMALL).double(), ProGANGenerator(SMALL).double()
    return generator, average.requires_grad_(False)


@pytest.mark.parametrize("form", ["hessian", "orojar"])
@pytest.mark.parametrize("layers", [(), ("blocks.0.norm?",)])
@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_value_and_gradient_are_those_at_the_average_and_reach_the_generator(
    form: str, layers: tuple[str, ...], reduction: str
) -> None:
    generator, average = pair()
    config = replace(PENALTY, form=form, layers=layers, reduction=reduction)
    z = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss_of(config: PenaltyConfig, G: ProGANGenerator) -> Tensor:
        penalty = make_penalty(config, G, average)
        assert penalty is not None
        return penalty(z, rng=torch.Generator().manual_seed(2))

    found = loss_of(config, generator)
    found.backward()
    same = copy.deepcopy(average).requires_grad_(True)
    wanted = loss_of(replace(config, of_average=False), same)
    wanted.backward()
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    for (name, weights), (_, wanted_weights) in zip(generator.named_parameters(), same.named_parameters(), strict=True):
        if wanted_weights.grad is None:
            assert weights.grad is None or not weights.grad.any(), name
        else:
            torch.testing.assert_close(weights.grad, wanted_weights.grad, rtol=1e-9, atol=1e-12)
    assert all(weights.grad is None for weights in average.parameters())
    assert not torch.equal(found, loss_of(replace(config, of_average=False), generator))  # the networks do differ


def test_images_are_exactly_those_of_the_average() -> None:
    generator, average = (network.float() for network in pair())
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(AtAverage(generator, average)(z), average(z))


def test_its_step_is_counted() -> None:
    config = TrainingConfig(SMALL, replace(PENALTY, adaptive=0.1, weight=0.0), batch_size=8)
    shared = count_step(replace(config, penalty=replace(config.penalty, of_average=False))).flop
    assert count_step(config).flop > shared  # it cannot use the pass of the main loss
