"""Weights of layers: the weighted sum, its gradient, and a generator that grows between calls."""

import inspect
import math

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hessian_penalty.penalty import HessianPenalty, OroJaR, hessian_penalty, orojar
from hessian_penalty.penalty.layers import LayerCapture

F64 = torch.float64
WEIGHTS = {"blocks.1": 0.25, "blocks.2": 3.0, "act": 0.5}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(loss, G):
    found = torch.autograd.grad(loss, list(G.parameters()), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(G.parameters(), found, strict=True)]


def weighted_sum(weights, of_layer):
    return torch.stack([weight * of_layer(name) for name, weight in weights.items()]).sum()


def assert_same(found, expected, G):
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(gradients(found, G), gradients(expected, G), rtol=1e-6, atol=1e-9)


class Growing(nn.Module):
    """Curved blocks, of which the first `depth` run, through one shared activation."""

    def __init__(self, levels=3, depth=1):
        super().__init__()
        torch.manual_seed(2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Softplus()) for _ in range(levels))
        self.act, self.depth = nn.Tanh(), depth
        self.double()

    def forward(self, z):
        for block in self.blocks[: self.depth]:
            z = self.act(block(2 * z))
        return z


class Swapping(nn.Module):
    """Two layers, which can run in either order."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.a_first = False
        self.double()

    def forward(self, z):
        return self.b(self.a(z)) if self.a_first else self.a(self.b(z))


@pytest.mark.parametrize(("penalise", "function"), [(HessianPenalty, hessian_penalty), (OroJaR, orojar)])
@pytest.mark.parametrize("options", [{"gradient": "sparse"}, {"gradient": "dense"}, {"reduction": "mean"}])
@pytest.mark.parametrize("scale_free", [False, True])
def test_loss_is_the_weighted_sum_over_layers(blocks, penalise, function, options, scale_free):
    """`act` runs three times, and each time counts with the weight of its name."""
    z, options = randn(6, 4), options | {"scale_free": scale_free}
    penalty = penalise(blocks, weight=0.3, ramp_kimg=2.0, layers=list(WEIGHTS), **options)
    loss = penalty(z, kimg=1.0, rng=seeded(), layer_weights=WEIGHTS.__getitem__)
    plain = weighted_sum(WEIGHTS, lambda name: function(blocks, z, layers=name, rng=seeded(), **options))
    assert_same(loss, 0.5 * 0.3 * plain, blocks)
    torch.testing.assert_close(penalty.value, plain.detach())
    assert penalty.last_weight == 0.5 * 0.3


@pytest.mark.parametrize("options", [{"gradient": "sparse"}, {"gradient": "dense"}])
def test_a_recorded_pass_is_weighted_alike(blocks, options):
    z = randn(6, 4)
    probes = (2 * torch.randint(0, 2, (2, 6, 4), generator=seeded()) - 1).to(z)
    penalty = HessianPenalty(blocks, weight=1.0, layers=list(WEIGHTS), **options)
    for _ in range(2):
        penalty.generate(z)
        assert penalty._recorded is not None
        loss = penalty(z, rng=seeded(), layer_weights=WEIGHTS.__getitem__)
        # The pass was the corner z - of the probes around the other centre (see test_generate).
        centre = z + 0.1 * probes[0]
        of_layer = {name: hessian_penalty(blocks, centre, layers=name, probes=probes, **options) for name in WEIGHTS}
        assert_same(loss, weighted_sum(WEIGHTS, of_layer.__getitem__), blocks)


def test_weight_one_changes_nothing(blocks):
    penalty, z = HessianPenalty(blocks, layers=["act", "blocks.*"]), randn(6, 4)
    plain = penalty(z, rng=seeded())
    assert torch.equal(penalty(z, rng=seeded(), layer_weights=lambda name: 1), plain)


def test_adaptive_weight_measures_the_weighted_penalty(blocks):
    penalty = HessianPenalty(blocks, layers=list(WEIGHTS), adaptive=0.1, adaptive_interval=1, adaptive_smoothing=0.0)
    main_loss = blocks(randn(6, 4)).square().mean()
    loss = penalty(randn(6, 4), main_loss=main_loss, layer_weights=WEIGHTS.__getitem__)
    norms = [torch.cat([g.flatten() for g in gradients(one, blocks)]).norm() for one in (loss, main_loss)]
    torch.testing.assert_close(norms[0], 0.1 * norms[1])


def test_maxima_over_processes_are_weighted_by_the_names_inside_the_wrapper(blocks):
    z = randn(6, 4)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        penalty = HessianPenalty(DistributedDataParallel(blocks), weight=1.0, layers=list(WEIGHTS))
        loss = penalty(z, rng=seeded(), layer_weights=WEIGHTS.__getitem__)
    finally:
        dist.destroy_process_group()
    assert_same(loss, weighted_sum(WEIGHTS, lambda name: hessian_penalty(blocks, z, layers=name, rng=seeded())), blocks)


@pytest.mark.parametrize("gradient", ["sparse", "dense"])
def test_a_layer_of_weight_zero_is_left_out_even_if_its_penalty_overflows(gradient):
    class Overflowing(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.linear, self.tame, self.huge = nn.Linear(4, 4), nn.Tanh(), nn.Identity()
            self.double()

        def forward(self, z):
            return self.huge(1e200 * self.tame(self.linear(z)))

    G, z = Overflowing(), randn(6, 4)
    penalty = HessianPenalty(G, weight=1.0, layers=["tame", "huge"], gradient=gradient)
    assert penalty(z, rng=seeded()) == math.inf
    loss = penalty(z, rng=seeded(), layer_weights={"tame": 0.5, "huge": 0}.__getitem__)
    assert_same(loss, 0.5 * hessian_penalty(G, z, layers="tame", rng=seeded(), gradient=gradient), G)


def test_weights_all_zero_give_no_loss(blocks):
    penalty = HessianPenalty(blocks, layers="act", weight=0.7, adaptive=0.1)
    loss = penalty(randn(6, 4), main_loss=blocks(randn(6, 4)).sum(), layer_weights=lambda name: 0.0)
    assert loss == penalty.value == 0 and loss.shape == () and loss.dtype == F64 and not loss.requires_grad
    assert penalty.last_weight == 0.7  # there was nothing to measure


@pytest.mark.parametrize("record", [False, True])
@pytest.mark.parametrize("gradient", ["sparse", "dense"])
def test_a_block_fades_in_while_the_generator_grows(record, gradient):
    """Level l, the last minus the block's index, counts min(l + 1 - lod, 1): negative for one that does not run yet."""
    G, z = Growing(), randn(6, 4)
    penalty = HessianPenalty(G, weight=1.0, layers="blocks.?", gradient=gradient, reduction="max")
    for lod in (2.0, 1.75, 0.5, 0.0, 1.25):
        G.depth = 3 - math.floor(lod)
        weights = {f"blocks.{2 - level}": min(level + 1 - lod, 1.0) for level in range(3)}
        if record:
            penalty.generate(z, kimg=0.0)
        loss = penalty(z, rng=seeded(), layer_weights=weights.__getitem__)
        running = {name: weights[name] for name in [f"blocks.{i}" for i in range(G.depth)]}
        centre, probes = z, (2 * torch.randint(0, 2, (2, 6, 4), generator=seeded()) - 1).to(z)
        if record:
            centre = z + 0.1 * probes[0]
        of_layer = {name: hessian_penalty(G, centre, layers=name, probes=probes, gradient="dense") for name in running}
        assert_same(loss, weighted_sum(running, of_layer.__getitem__), G)


def test_growth_is_seen_where_the_one_layer_starts_to_run_oftener():
    """After a pass in which every layer ran once, passes stop there; not so for a G that grows."""
    G, z = Growing(), randn(6, 4)
    penalty = HessianPenalty(G, weight=1.0, layers="act")
    for G.depth in (1, 3, 2):
        loss = penalty(z, rng=seeded(), layer_weights=lambda name: 0.5)
        assert_same(loss, 0.5 * hessian_penalty(G, z, layers="act", rng=seeded()), G)


def test_names_follow_an_order_that_changes_between_calls():
    G, z, weights = Swapping(), randn(6, 4), {"a": 0.1, "b": 2.0}
    penalty = HessianPenalty(G, weight=1.0, layers=["a", "b"])
    for G.a_first in (False, True, False):
        loss = penalty(z, rng=seeded(), layer_weights=weights.__getitem__)
        assert_same(loss, weighted_sum(weights, lambda name: hessian_penalty(G, z, layers=name, rng=seeded())), G)


def test_order_names_each_output_as_often_as_its_layer_runs():
    G = Growing()
    capture = LayerCapture(G, ["act", "blocks.?"])
    assert capture.order == []
    for G.depth in (1, 3):
        capture.restart()
        for _ in range(2):  # to the end, then no further than the last layer
            capture(randn(6, 4), {})
            assert capture.order == [name for i in range(G.depth) for name in (f"blocks.{i}", "act")]
    capture(randn(6, 4), {}, most=1)
    assert len(capture.order) == 6


def test_only_layers_that_run_are_asked_for_once_each():
    asked = []
    penalty = HessianPenalty(Growing(depth=2), layers=["act", "blocks.?"])
    penalty(randn(6, 4), layer_weights=lambda name: asked.append(name) or 1.0)
    assert asked == ["blocks.0", "act", "blocks.1"]


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
def test_a_weight_out_of_range_is_refused(blocks, weight):
    penalty = HessianPenalty(blocks, layers=["blocks.1", "act"])
    message = rf"`layer_weights\('act'\)` must be a finite number, at least 0, got {weight}"
    with pytest.raises(ValueError, match=message):
        penalty(randn(6, 4), layer_weights={"blocks.1": 1.0, "act": weight}.__getitem__)
    assert penalty.value is None


def test_weights_of_another_type_are_refused(blocks):
    penalty = HessianPenalty(blocks, layers="act")
    with pytest.raises(TypeError, match=r"`layer_weights\('act'\)` must be a number, got NoneType None"):
        penalty(randn(6, 4), layer_weights={}.get)
    untyped = inspect.unwrap(HessianPenalty.__call__)  # past the type checks of the tests
    with pytest.raises(TypeError, match=r"must be a function of a layer's name, got dict; pass `weights\.__getitem__`"):
        untyped(penalty, randn(6, 4), layer_weights={"act": 1.0})


def test_weights_without_layers_are_refused_before_the_ramp_begins(blocks):
    with pytest.raises(ValueError, match="`layer_weights` weighs the layers of a penalty that was created with `layer"):
        HessianPenalty(blocks, start_kimg=5.0)(randn(6, 4), kimg=0.0, layer_weights=lambda name: 1.0)
