"""Penalising named layers: matching, capture, early stop, clean-up."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from hessian_penalty.penalty import HessianPenalty, hessian_penalty
from hessian_penalty.penalty.layers import LayerCapture, match_layers
from hessian_penalty.penalty.probes import rademacher_probes

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def hooks_of(G):
    return sum(len(module._forward_hooks) for module in G.modules())


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


@pytest.mark.parametrize("gradient", ["sparse", "dense"])
def test_layers_match_a_generator_that_returns_the_activations(blocks, gradient):
    z, probes = randn(5, 4), randn(2, 5, 4, seed=1).sign()
    by_hand = hessian_penalty(blocks.activations, z, probes=probes, gradient=gradient)
    expected = torch.autograd.grad(by_hand, blocks.blocks.parameters())
    value = hessian_penalty(blocks, z, layers="act", probes=probes, gradient=gradient)
    torch.testing.assert_close(value, by_hand)  # "act" runs three times a pass: three outputs
    torch.testing.assert_close(torch.autograd.grad(value, blocks.blocks.parameters()), expected)


def test_patterns_pick_layers(blocks):
    z, probes = randn(5, 4), randn(2, 5, 4, seed=1).sign()
    parts = [hessian_penalty(blocks, z, layers=f"blocks.{i}", probes=probes) for i in range(3)]
    assert parts[0] < 1e-20 < parts[1]  # the first one is linear
    torch.testing.assert_close(hessian_penalty(blocks, z, layers="blocks.*", probes=probes), sum(parts))
    some = hessian_penalty(blocks, z, layers=["blocks.[12]", "blocks.1"], probes=probes)
    torch.testing.assert_close(some, parts[1] + parts[2])


def test_only_the_layers_are_penalised():
    G = nn.Sequential(nn.Identity(), nn.Flatten()).double()
    assert hessian_penalty(G, randn(3, 4), layers="0") < 1e-20
    curved = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    assert hessian_penalty(curved, randn(3, 4)) > 1e-6 > hessian_penalty(curved, randn(3, 4), layers="0")


def test_passes_stop_after_the_last_penalised_layer():
    G = nn.Sequential(nn.Linear(4, 3), Counter(), nn.Tanh(), Counter(), nn.Linear(3, 2), Counter()).double()
    hessian_penalty(G, randn(5, 4), layers=["0", "2"], gradient="dense")
    assert [G[i].calls for i in (1, 3, 5)] == [5, 1, 1]  # the first pass learns the order, the second repeats it
    hessian_penalty(G, randn(5, 4), layers=["0", "2"], gradient="dense")
    assert [G[i].calls for i in (1, 3, 5)] == [9, 2, 2]
    penalty = HessianPenalty(G, layers=["0", "2"])
    for _ in range(3):
        penalty(randn(5, 4))
    assert [G[i].calls for i in (3, 5)] == [5, 5]  # a call learns it anew, since G may have grown
    for _ in range(3):
        penalty.generate(z := randn(5, 4))
        penalty(z)
    assert [G[i].calls for i in (3, 5)] == [8, 8]  # unless the training step's own pass has told


def test_a_layer_that_ran_once_may_run_again():
    """An activation that blocks share, of which more grow in."""

    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.depth = nn.Tanh(), 1

        def forward(self, z):
            for _ in range(self.depth):
                z = self.act(z * z.sum(dim=1, keepdim=True))
            return z

    G, z = Growing(), randn(3, 4)
    penalty = HessianPenalty(G, layers="act", weight=1.0)
    penalty(z)
    G.depth = 3
    grown = penalty(z, rng=torch.Generator().manual_seed(0))
    expected = hessian_penalty(G, z, layers="act", rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grown, expected)


def test_a_layer_that_did_not_run_may_run_later():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.block1, self.block2, self.grown = nn.Tanh(), nn.Tanh(), False

        def forward(self, z):
            z = self.block1(z * z.sum(dim=1, keepdim=True))
            return self.block2(3 * z) if self.grown else z

    G, z = Growing(), randn(3, 4)
    penalty = HessianPenalty(G, layers="block*", weight=1.0)
    penalty(z, rng=torch.Generator().manual_seed(0))
    G.grown = True
    grown = penalty(z, rng=torch.Generator().manual_seed(0))
    expected = hessian_penalty(G, z, layers="block*", rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(grown, expected)


def test_order_of_execution_counts_not_order_of_registration():
    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.late, self.early, self.tail = nn.Tanh(), nn.Linear(4, 4), Counter()

        def forward(self, z):
            return self.tail(self.late(self.early(z)))

    G = Swapped().double()
    names = []
    capture = LayerCapture(G, ["late", "early"])
    for _ in range(2):
        early, late = capture(randn(2, 4), {})
        torch.testing.assert_close(late, early.tanh())
        names.append(G.tail.calls)
    assert names == [1, 1]


def test_inactive_layers_give_no_output():
    class Growing(nn.Module):
        def __init__(self):
            super().__init__()
            self.block1, self.block2, self.active = nn.Tanh(), nn.Tanh(), 1

        def forward(self, z):
            z = self.block1(z * z.sum(dim=1, keepdim=True))
            return self.block2(z) if self.active == 2 else z

    G, z, probes = Growing(), randn(3, 4), randn(2, 3, 4, seed=1).sign()
    one = hessian_penalty(G, z, layers="block*", probes=probes)
    torch.testing.assert_close(one, hessian_penalty(G, z, probes=probes))
    G.active = 2
    assert hessian_penalty(G, z, layers="block*", probes=probes) > one
    G.active = 1
    with pytest.raises(ValueError, match="`layers` matches block2, but none of them runs"):
        hessian_penalty(G, z, layers="block2", probes=probes)


def test_activations_survive_in_place_operations():
    linear = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.2, inplace=True), nn.Linear(3, 2)).double()
    assert hessian_penalty(linear, randn(50, 4), layers=["0", "2"]) > 1e-3  # "2" is kinked
    assert hessian_penalty(linear, randn(50, 4), layers="0") < 1e-20
    capture = LayerCapture(linear, ["0", "1"])
    assert capture(randn(50, 4), {}) is None  # overwritten: the pass has to be repeated
    first, _ = capture(randn(50, 4), {})
    assert first.min() < 0 and torch.equal(first, linear[0](randn(50, 4)))


def test_hooks_are_removed_after_success_and_after_an_exception(blocks):
    hessian_penalty(blocks, randn(3, 4), layers="blocks.*")
    assert hooks_of(blocks) == 0

    def fail(module, inputs):
        raise RuntimeError("inside G")

    blocks.head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="inside G"):
        hessian_penalty(blocks, randn(3, 4), layers="blocks.*")
    assert hooks_of(blocks) == 0


def test_early_stop_gets_past_a_generator_that_catches_exceptions():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.tail = nn.Tanh(), Counter()

        def forward(self, z):
            try:
                return self.tail(self.layer(z))
            except Exception:
                return self.tail(z)

    G = Careful()
    hessian_penalty(G, randn(3, 4), layers="layer", gradient="dense")
    assert G.tail.calls == 1


def test_module_with_two_names_is_one_layer():
    shared = nn.Tanh()
    G = nn.ModuleDict({"a": shared, "b": shared, "c": nn.Tanh()})
    assert list(match_layers(G, "b")) == ["b"]
    assert list(match_layers(G, "*")) == ["a", "c"]


def test_unmatched_pattern_lists_the_names(blocks):
    with pytest.raises(
        ValueError, match=r"'norm\*' matches no module of G; its modules are: blocks, blocks.0, .*, head"
    ):
        hessian_penalty(blocks, randn(3, 4), layers=["act", "norm*"])


def test_no_pattern_is_refused(blocks):
    with pytest.raises(ValueError, match="`layers` holds no pattern"):
        hessian_penalty(blocks, randn(3, 4), layers=[])


def test_layers_need_a_module(blocks):
    with pytest.raises(TypeError, match=r"`G` must be a torch\.nn\.Module, got function"):
        hessian_penalty(lambda z: z, randn(3, 4), layers="act")


def test_layer_that_returns_no_tensor_is_refused():
    G = nn.Sequential(nn.LSTM(4, 3)).double()
    with pytest.raises(TypeError, match="`layers` matches '0', which returns tuple"):
        hessian_penalty(G, randn(3, 4), layers="0")
    assert hooks_of(G) == 0


class Checkpointed(nn.Module):
    """Two layers in a checkpoint, and one after it."""

    def __init__(self, use_reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 2)
        self.use_reentrant = use_reentrant
        self.double()

    def forward(self, z):
        inner = checkpoint(lambda x: self.b(self.a(x).tanh()).tanh(), z, use_reentrant=self.use_reentrant)
        return self.head(inner)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # PyTorch's own, of that checkpoint
@pytest.mark.parametrize("reduction", ["max", "mean"])
def test_layers_in_a_reentrant_checkpoint_are_refused_where_a_gradient_is_wanted(reduction):
    z, probes = randn(5, 4).requires_grad_(), rademacher_probes(randn(5, 4), 2, torch.Generator().manual_seed(0))
    G, reference = Checkpointed(use_reentrant=True), Checkpointed(use_reentrant=False)
    with pytest.raises(ValueError, match=r"`layers` matches 'a', which runs without a graph .* use_reentrant=False"):
        hessian_penalty(G, z, layers=["a", "b"], reduction=reduction)
    with torch.no_grad():
        value = hessian_penalty(G, z, layers=["a", "b"], reduction=reduction, probes=probes)
    expected = hessian_penalty(reference, z, layers=["a", "b"], reduction=reduction, probes=probes)
    assert value == pytest.approx(expected.item(), rel=1e-9)
    expected.backward()
    assert reference.a.weight.grad.norm() > 0


def test_cached_parametrizations_keep_their_gradients():
    """What a pass without a graph leaves in the cache would detach the penalty and the main loss."""
    torch.manual_seed(0)
    G = nn.Sequential(weight_norm(nn.Linear(4, 6)), nn.Tanh(), weight_norm(nn.Linear(6, 2))).double()
    z, probes = randn(8, 4), rademacher_probes(randn(8, 4), 2, torch.Generator().manual_seed(0))
    parameters = list(G.parameters())

    def gradients():
        return torch.autograd.grad(hessian_penalty(G, z, probes=probes) + G(z).square().mean(), parameters)

    expected = gradients()
    with parametrize.cached():
        found = gradients()
    torch.testing.assert_close(found, expected)
