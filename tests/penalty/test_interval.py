"""Every few steps, with as many times the weight."""

import pytest
import torch

from hessian_penalty.penalty import HessianPenalty, hessian_penalty

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_every_third_call_has_three_times_the_weight(blocks):
    penalty = HessianPenalty(blocks, weight=0.2, interval=3)
    plain = hessian_penalty(blocks, randn(4, 4), rng=seeded())
    losses, weights = [], []
    for _ in range(7):
        losses.append(penalty(randn(4, 4), rng=seeded()).item())
        weights.append(penalty.last_weight)
        assert (penalty.value is None) == (losses[-1] == 0)
    assert weights == pytest.approx([0.6, 0, 0, 0.6, 0, 0, 0.6])
    assert losses == pytest.approx([0.6 * plain.item(), 0, 0] * 2 + [0.6 * plain.item()])


def test_calls_between_cost_nothing(blocks):
    calls = []
    penalty = HessianPenalty(lambda z: calls.append(1) or blocks(z), interval=4)
    penalty(randn(4, 4))
    calls.clear()
    state = torch.get_rng_state()
    for _ in range(3):
        penalty(randn(4, 4))
    assert not calls and torch.equal(torch.get_rng_state(), state)


def test_calls_before_the_start_do_not_count(blocks):
    penalty = HessianPenalty(blocks, interval=2, start_kimg=1.0)
    values = [penalty(randn(4, 4), kimg=kimg) > 0 for kimg in (0.0, 0.5, 0.9, 1.0, 1.1, 1.2)]
    assert values == [False, False, False, True, False, True]


def test_adaptive_weight_is_measured_where_the_penalty_is_evaluated(blocks):
    penalty = HessianPenalty(blocks, adaptive=0.1, interval=2, adaptive_interval=2, adaptive_smoothing=0.0)
    weights = []
    for step in range(9):
        penalty(randn(4, 4, seed=step), main_loss=blocks(randn(4, 4, seed=step)).square().mean())
        weights.append(penalty.last_weight)
    assert weights[1::2] == [0] * 4
    assert weights[0] == weights[2] != weights[4] == weights[6] != weights[8]


def test_a_value_for_validation_is_no_step(blocks):
    penalty = HessianPenalty(blocks, interval=2)
    values = []
    for _ in range(4):
        values.append(bool(penalty(randn(4, 4)) > 0))
        with torch.no_grad():
            assert penalty(randn(4, 4)) > 0
    assert values == [True, False, True, False]


def test_state_goes_on_exactly(blocks):
    whole = HessianPenalty(blocks, interval=3)
    expected = [whole(randn(4, 4), rng=seeded()).item() for _ in range(8)]
    interrupted = HessianPenalty(blocks, interval=3)
    found = [interrupted(randn(4, 4), rng=seeded()).item() for _ in range(4)]
    resumed = HessianPenalty(blocks, interval=3)
    resumed.load_state_dict(interrupted.state_dict())
    assert found + [resumed(randn(4, 4), rng=seeded()).item() for _ in range(4)] == expected


def test_helpful_error(blocks):
    with pytest.raises(ValueError, match="`interval` must be at least 1 call, got 0"):
        HessianPenalty(blocks, interval=0)
