"""The training loss: fixed, ramped and adaptive weight, state."""

import json
import math

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import HessianPenalty, hessian_penalty
from hessian_penalty.penalty.adaptive import AdaptiveWeight, gradient_norm

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def norm(loss, G):
    gradients = torch.autograd.grad(loss, G.parameters(), retain_graph=True, allow_unused=True)
    return math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))


def test_fixed_weight(blocks):
    z = randn(4, 4)
    penalty = HessianPenalty(blocks, weight=0.25, k=3, epsilon=0.2, reduction="mean", layers="blocks.*")
    loss = penalty(z, rng=seeded())
    plain = hessian_penalty(blocks, z, k=3, epsilon=0.2, reduction="mean", layers="blocks.*", rng=seeded())
    torch.testing.assert_close(loss, 0.25 * plain)
    assert penalty.value == plain and not penalty.value.requires_grad and loss.requires_grad
    assert penalty.last_weight == 0.25


def test_defaults_are_those_of_the_function(blocks):
    z = randn(4, 4)
    assert HessianPenalty(blocks, weight=1.0)(z, rng=seeded()) == hessian_penalty(blocks, z, rng=seeded())


@pytest.mark.parametrize(("kimg", "ramp"), [(0.0, 0.0), (10.0, 0.0), (15.0, 0.25), (30.0, 1.0), (99.0, 1.0)])
def test_ramp(blocks, kimg, ramp):
    penalty = HessianPenalty(blocks, weight=0.4, start_kimg=10.0, ramp_kimg=20.0)
    loss = penalty(randn(4, 4), kimg=kimg, rng=seeded())
    torch.testing.assert_close(loss, 0.4 * ramp * hessian_penalty(blocks, randn(4, 4), rng=seeded()))
    assert penalty.last_weight == pytest.approx(0.4 * ramp)


def test_start_without_ramp_is_a_switch(blocks):
    penalty = HessianPenalty(blocks, start_kimg=10.0)
    assert penalty(randn(4, 4), kimg=9.99) == 0
    assert penalty(randn(4, 4), kimg=10.0) > 0


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"start_kimg": 5.0}, {"start_kimg": 5.0, "adaptive": 0.1}])
def test_zero_weight_costs_nothing(options):
    class Untouchable(nn.Module):
        def forward(self, z):
            raise RuntimeError("evaluated")

    penalty = HessianPenalty(Untouchable(), **options)
    w = torch.ones((), dtype=F64, requires_grad=True)
    state = torch.get_rng_state()
    loss = penalty(randn(4, 4), kimg=1.0)
    assert loss == 0 and loss.shape == () and not loss.requires_grad
    assert penalty.value is None and penalty.last_weight == 0
    (3 * w + loss).backward()
    assert w.grad == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_adaptive_weight_holds_the_fraction_at_each_measurement(blocks):
    penalty = HessianPenalty(blocks, adaptive=0.1, adaptive_interval=1, adaptive_smoothing=0.0)
    for seed in range(3):
        main_loss = blocks(randn(4, 4, seed=seed)).square().mean()
        loss = penalty(randn(4, 4, seed=seed), main_loss=main_loss)
        assert norm(loss, blocks) == pytest.approx(0.1 * norm(main_loss, blocks), rel=1e-9)
    assert all(parameter.grad is None for parameter in blocks.parameters())
    (main_loss + loss).backward()  # the graphs are still there


def test_smoothed_adaptive_weight_reaches_its_fraction_on_average(blocks):
    """Constant in the logarithm on average: the geometric mean of the ratios of 40 draws, within 4 standard errors."""
    penalty = HessianPenalty(blocks, adaptive=0.1, adaptive_interval=2, adaptive_smoothing=0.9, reduction="mean")
    z, rng = randn(64, 4), seeded()
    main_loss = blocks(z).square().mean()
    main_norm = norm(main_loss, blocks)
    logs = []
    for step in range(80):
        loss = penalty(z, main_loss=main_loss, rng=rng)
        if step >= 40:
            logs.append(math.log(norm(loss, blocks) / (0.1 * main_norm)))
    logs = torch.tensor(logs)
    # the average of the weight itself spreads like 20 / 2 draws, so the bound is that of about 10 draws
    assert abs(logs.mean()) < 4 * logs.std() / 10**0.5
    assert abs(logs.mean()) < 0.5


def test_adaptive_weight_smooths_in_the_logarithm_and_respects_interval_and_bounds():
    weight = AdaptiveWeight(0.5, interval=3, smoothing=0.75, min_weight=0.1, max_weight=30.0)
    assert [weight.due() for _ in range(7)] == [True, False, False, True, False, False, True]
    for exponent, mean in ((1, 1), (5, 3), (3, 3), (1, 2.5), (6.5, 3.5), (-0.5, 2.5)):  # of the first four, then moving
        weight.update(main_norm=2.0**exponent, penalty_norm=1.0)
        assert weight.value == pytest.approx(0.5 * 2.0**mean)
    resumed = AdaptiveWeight(0.5, smoothing=0.75)
    resumed.load_state_dict(weight.state_dict())
    for one in (weight, resumed):
        one.update(main_norm=2.0**0.5, penalty_norm=1.0)
        assert one.value == pytest.approx(2.0)  # 0.75 * 2.5 + 0.25 * 0.5 = 2
    for norms in ((0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan)):
        weight.update(*norms)
        assert weight.value == pytest.approx(2.0)
    for _ in range(50):
        weight.update(1e6, 1.0)
    assert weight.value == 30.0
    for _ in range(50):
        weight.update(1.0, 1e6)
    assert weight.value == 0.1


def test_interval_skips_measurements(blocks):
    penalty = HessianPenalty(blocks, adaptive=0.1, adaptive_interval=3, adaptive_smoothing=0.0)
    weights = []
    for step in range(7):
        penalty(randn(4, 4, seed=step), main_loss=blocks(randn(4, 4, seed=step)).square().mean())
        weights.append(penalty.last_weight)
    assert weights[0] == weights[1] == weights[2] != weights[3] == weights[4] == weights[5] != weights[6]


def test_ramp_multiplies_the_adaptive_fraction(blocks):
    penalty = HessianPenalty(blocks, adaptive=0.2, ramp_kimg=10.0, adaptive_smoothing=0.0)
    main_loss = blocks(randn(4, 4)).square().mean()
    loss = penalty(randn(4, 4), kimg=2.5, main_loss=main_loss)
    assert norm(loss, blocks) == pytest.approx(0.05 * norm(main_loss, blocks), rel=1e-9)


def test_a_generator_without_curvature_keeps_the_initial_weight():
    G = nn.Linear(3, 2).double()
    z = torch.zeros(4, 3, dtype=F64)
    penalty = HessianPenalty(lambda z: G(z) * 0.0 + 1.0, adaptive=0.1, weight=0.7, parameters=G.parameters())
    assert penalty(z, main_loss=G(z).sum()) == 0
    assert penalty.last_weight == 0.7


def test_adaptive_weight_for_a_function_with_parameters():
    w = torch.tensor(2.0, dtype=F64, requires_grad=True)
    penalty = HessianPenalty(
        lambda z: w * z[:, 0] * z[:, 1], adaptive=0.5, parameters=[w], adaptive_smoothing=0.0, reduction="mean"
    )
    main_loss = 3 * w
    loss = penalty(randn(64, 2), main_loss=main_loss)
    assert torch.autograd.grad(loss, w)[0].item() == pytest.approx(1.5)


def test_without_grad_the_weight_stands_still(blocks):
    penalty = HessianPenalty(blocks, adaptive=0.1, weight=0.3)
    with torch.no_grad():
        loss = penalty(randn(4, 4))
    assert penalty.last_weight == 0.3 and loss == 0.3 * penalty.value


def test_state_round_trip_goes_on_exactly(blocks):
    def steps(penalty, seeds):
        weights = []
        for seed in seeds:
            main_loss = blocks(randn(4, 4, seed=seed)).square().mean()
            penalty(randn(4, 4, seed=seed), main_loss=main_loss, rng=seeded(seed))
            weights.append(penalty.last_weight)
        return weights

    options = {"adaptive": 0.1, "adaptive_interval": 3}
    whole = steps(HessianPenalty(blocks, **options), range(10))
    interrupted = HessianPenalty(blocks, **options)
    steps(interrupted, range(5))
    resumed = HessianPenalty(blocks, **options)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    assert steps(resumed, range(5, 10)) == whole[5:]
    fresh = HessianPenalty(blocks, **options)
    fresh.load_state_dict(HessianPenalty(blocks, **options).state_dict())
    assert steps(fresh, range(10)) == whole


def test_coupled_samples_are_tried_sparsely_once_only():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh()).double()
    penalty = HessianPenalty(G)
    with pytest.warns(UserWarning, match="influence each other"):
        penalty(randn(6, 4))
    penalty(randn(6, 4))  # a warning would be an error
    resumed = HessianPenalty(G)
    resumed.load_state_dict(penalty.state_dict())
    resumed(randn(6, 4))


def test_gradients_accumulate_over_parts_of_a_batch(blocks):
    z, probes = randn(8, 4), randn(2, 8, 4, seed=1).sign()
    whole = torch.autograd.grad(hessian_penalty(blocks, z, probes=probes, reduction="mean"), blocks.blocks.parameters())
    blocks.zero_grad()
    for part in range(2):
        rows = slice(4 * part, 4 * part + 4)
        (hessian_penalty(blocks, z[rows], probes=probes[:, rows], reduction="mean") / 2).backward()
    torch.testing.assert_close([p.grad for p in blocks.blocks.parameters()], list(whole))


def test_gradient_norm_ignores_parameters_out_of_reach():
    a, b = torch.tensor([3.0], requires_grad=True), torch.tensor([4.0], requires_grad=True)
    assert gradient_norm((2 * a).sum(), [a, b]) == 2.0
    assert gradient_norm((2 * a).sum(), [b]) == 0.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight": -1.0}, ValueError, "`weight` must be a finite number, at least 0, got -1"),
        ({"start_kimg": math.nan}, ValueError, "`start_kimg` must be a finite number"),
        ({"ramp_kimg": math.inf}, ValueError, "`ramp_kimg` must be a finite number"),
        ({"reduction": "none"}, ValueError, "`reduction='none'` gives no scalar loss"),
        ({"k": 1}, ValueError, "`k` must be at least 2"),
        ({"adaptive": 0.0}, ValueError, "`adaptive` must be a positive fraction"),
        ({"adaptive": 0.1, "adaptive_interval": 0}, ValueError, "`adaptive_interval` must be at least 1"),
        ({"adaptive": 0.1, "adaptive_smoothing": 1.0}, ValueError, "`adaptive_smoothing` must be at least 0"),
        ({"adaptive": 0.1, "min_weight": 2.0, "max_weight": 1.0}, ValueError, "must satisfy 0 <= min_weight"),
    ],
)
def test_helpful_errors_at_construction(blocks, options, error, message):
    with pytest.raises(error, match=message):
        HessianPenalty(blocks, **options)


def test_helpful_errors_at_the_call(blocks):
    with pytest.raises(ValueError, match=r"`kimg` is needed.*start_kimg=0, ramp_kimg=5"):
        HessianPenalty(blocks, ramp_kimg=5.0)(randn(4, 4))
    adaptive = HessianPenalty(blocks, adaptive=0.1)
    for main_loss, got in ((None, "None"), (torch.ones(2), r"the shape \(2,\)"), (torch.ones(()), "without a graph")):
        with pytest.raises(ValueError, match=f"`main_loss` is needed for an adaptive weight.*got .*{got}"):
            adaptive(randn(4, 4), main_loss=main_loss)
    with pytest.raises(TypeError, match=r"`G` must be a torch\.nn\.Module, got function; or pass `parameters`"):
        HessianPenalty(lambda z: z, adaptive=0.1)
    frozen = nn.Linear(4, 2).double().requires_grad_(False)
    z = randn(4, 4).requires_grad_()
    with pytest.raises(ValueError, match="over parameters that require one, but `G` has none"):
        HessianPenalty(nn.Sequential(frozen, nn.Tanh()), adaptive=0.1)(z, main_loss=frozen(z).sum())
    with pytest.raises(ValueError, match="`state` must hold"):
        adaptive.load_state_dict({"coupled": 0.0})
    with pytest.raises(ValueError, match="`state` must hold"):
        HessianPenalty(blocks).load_state_dict({"coupled": 0.0, "adaptive_steps": 3.0})
