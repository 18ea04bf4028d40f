"""The training step's own pass as one of the corners."""

import copy

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import HessianPenalty, OroJaR, hessian_penalty, orojar

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Counting(nn.Module):
    """Counts the rows that pass, with graph and without."""

    def __init__(self, G):
        super().__init__()
        self.G, self.passes = G, []

    def forward(self, z, scale=None):
        self.passes.append((len(z), torch.is_grad_enabled()))
        return self.G(z) if scale is None else self.G(z) * scale


@pytest.fixture
def G(blocks):
    return Counting(blocks)


def signs(z, k, rng):
    return (2 * torch.randint(0, 2, (k, *z.shape), generator=rng) - 1).to(z)


def parameter_gradients(loss, G):
    return torch.autograd.grad(loss, G.parameters(), allow_unused=True, retain_graph=True)


def by_hand(G):
    """The outputs of blocks 1 and 2, before their activations."""

    def outputs(z):
        first = G.act(G.blocks[0](z))
        second = G.blocks[1](first)
        return [second, G.blocks[2](G.act(second))]

    return outputs


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("layers", [None, "G.act", ["G.blocks.1", "G.blocks.2"]])
@pytest.mark.parametrize("options", [{"reduction": "mean"}, {"gradient": "dense"}, {"gradient": "sparse"}])
@pytest.mark.parametrize("scale_free", [False, True])
def test_hessian_penalty_is_that_around_the_shifted_centre(G, k, layers, options, scale_free):
    """Corner z - of the probes around z + epsilon v_1 - is the pass that was recorded."""
    z, epsilon = randn(6, 4), 0.1
    penalty = HessianPenalty(G, weight=1.0, k=k, layers=layers, scale_free=scale_free, **options)
    penalty.generate(z)
    loss = penalty(z, rng=seeded())
    assert penalty._recorded is None
    probes = signs(z, k, seeded())
    # The definition, evaluated afresh around the other centre; only the scale is that of the recorded outputs.
    how = {"reduction": options.get("reduction", "max"), "layers": layers, "k": k, "gradient": "dense"}
    centre = z + epsilon * probes[0]
    if scale_free:
        outputs = {"None": lambda z: [G(z)], "G.act": lambda z: G.G.activations(z)}.get(str(layers), by_hand(G.G))
        reduce = torch.mean if "reduction" in options else torch.max
        elements = hessian_penalty(outputs, centre, k=k, probes=probes, reduction="none")
        elements = elements if isinstance(elements, tuple) else (elements,)
        expected = sum(reduce(e) / o.var(dim=0).mean() for e, o in zip(elements, outputs(z), strict=True))
    else:
        expected = hessian_penalty(G, centre, probes=probes, **how)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-12)
    pairs = zip(parameter_gradients(loss, G), parameter_gradients(expected, G), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


def test_orojar_takes_the_pass_as_its_centre(G):
    z = randn(6, 4)
    orojar(G, z, reduction="mean")  # makes sure that G is a function
    for options in ({"reduction": "mean"}, {}):
        penalty = OroJaR(G, weight=1.0, **options)
        penalty.generate(z)
        G.passes.clear()
        value = penalty(z, rng=seeded())
        assert sum(rows == 6 for rows, _ in G.passes) == 2  # k, not k + 1
        torch.testing.assert_close(value, orojar(G, z, rng=seeded(), **options))


def test_one_evaluation_less(G):
    z = randn(6, 4)
    HessianPenalty(G, reduction="mean")(z)  # makes sure that G is a function
    for options, with_graph, without in (({"reduction": "mean"}, 3, 0), ({"gradient": "sparse"}, 0, 3)):
        penalty = HessianPenalty(G, **options)
        images = penalty.generate(z)
        assert torch.equal(images, G(z))
        G.passes.clear()
        penalty(z)
        assert G.passes.count((6, True)) == with_graph and G.passes.count((6, False)) == without


def test_gradient_reaches_the_parameters_through_the_recorded_pass_once(G):
    z = randn(6, 4)
    penalty = HessianPenalty(G, weight=0.3, reduction="mean")
    images = penalty.generate(z)
    main_loss = images.square().mean()
    together = parameter_gradients(main_loss + penalty(z, rng=seeded()), G)
    probes = signs(z, 2, seeded())
    apart = parameter_gradients(
        G(z).square().mean() + 0.3 * hessian_penalty(G, z + 0.1 * probes[0], probes=probes, reduction="mean"), G
    )
    torch.testing.assert_close(together, apart, rtol=1e-6, atol=1e-9)


def not_the_same(name, G, z):
    """Change something between the pass and the penalty."""
    if name == "other latents":
        return z.clone(), {}
    if name == "latents written over":
        z.mul_(0.5)
    elif name == "parameters stepped":
        with torch.no_grad():
            G.G.head.weight.mul_(0.5)
    elif name == "other conditions":
        return z, {"scale": 2.0}
    return z, {}


@pytest.mark.parametrize("change", ["other latents", "latents written over", "parameters stepped", "other conditions"])
def test_a_pass_that_does_not_fit_is_not_used(G, change):
    z = randn(6, 4)
    penalty = HessianPenalty(G, weight=1.0, reduction="mean")
    penalty.generate(z)
    z, conditions = not_the_same(change, G, z)
    expected = hessian_penalty(G, z, reduction="mean", rng=seeded(), **conditions)
    torch.testing.assert_close(penalty(z, rng=seeded(), **conditions), expected)
    torch.testing.assert_close(penalty(z, rng=seeded(), **conditions), expected)


@pytest.mark.parametrize("change", ["parameters stepped", "mode", "without graph"])
def test_a_pass_through_a_function_is_checked_as_well(blocks, change):
    net = nn.Sequential(blocks, nn.Dropout(0.5))
    penalty = HessianPenalty(lambda z: net(z), weight=1.0, reduction="mean")
    z = randn(6, 4)
    net.train(change == "mode")
    with torch.set_grad_enabled(change != "without graph"):
        penalty.generate(z)
    net.eval()
    if change == "parameters stepped":
        with torch.no_grad():
            blocks.head.weight.mul_(2.0)
    value = penalty(z, rng=seeded())
    expected = hessian_penalty(blocks, z, reduction="mean", rng=seeded())
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(parameter_gradients(value, blocks), parameter_gradients(expected, blocks))


def test_switches_that_disagree_do_not_break_the_recording(blocks):
    """After the finer switches are set apart, PyTorch refuses to read the coarse one."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("this PyTorch has no switch for each operator")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        penalty = HessianPenalty(blocks, weight=1.0)
        z = randn(6, 4)
        penalty.generate(z)
        assert penalty(z) > 0
    finally:
        matmul.fp32_precision = before


def test_a_pass_without_graph_is_not_used_for_a_gradient(G):
    z = randn(6, 4)
    penalty = HessianPenalty(G, weight=1.0, reduction="mean")
    with torch.no_grad():
        penalty.generate(z)
    expected = hessian_penalty(G, z, reduction="mean", rng=seeded())
    torch.testing.assert_close(penalty(z, rng=seeded()), expected)


def test_a_pass_in_low_precision_is_not_used(blocks):
    G, z = blocks.float(), randn(6, 4).float()
    penalty = HessianPenalty(G, weight=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = penalty.generate(z)
        value = penalty(z, rng=seeded())
    assert images.dtype == torch.bfloat16
    torch.testing.assert_close(value, hessian_penalty(G, z, rng=seeded()))


def test_activations_that_were_overwritten_are_not_used():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LeakyReLU(0.1, inplace=True), nn.Linear(5, 2)).double()
    plain = nn.Sequential(G[0], G[1])
    penalty = HessianPenalty(G, layers="1", weight=1.0)
    z = randn(6, 4)
    penalty.generate(z)
    torch.testing.assert_close(penalty(z, rng=seeded()), hessian_penalty(plain, z, rng=seeded()))


def test_random_numbers_and_buffers_of_the_recorded_pass_are_replayed():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)).double()
    z = randn(6, 4)
    twin = copy.deepcopy(G)
    torch.manual_seed(9)
    twin(z)
    after_one_pass = torch.get_rng_state()
    mask_seeded = copy.deepcopy(G)
    penalty = HessianPenalty(G, weight=1.0, reduction="mean")
    torch.manual_seed(9)
    penalty.generate(z)
    value = penalty(z, rng=seeded())
    assert torch.equal(torch.get_rng_state(), after_one_pass)
    for ours, theirs in zip(G.buffers(), twin.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    probes = signs(z, 2, seeded())
    torch.manual_seed(9)
    expected = hessian_penalty(mask_seeded, z + 0.1 * probes[0], probes=probes, reduction="mean")
    torch.testing.assert_close(value, expected)


def test_coupled_samples_go_dense_with_the_recorded_pass():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 2)).double()
    z = randn(6, 4)
    penalty = HessianPenalty(G, weight=1.0)
    for attempt in range(2):
        penalty.generate(z)
        if attempt == 0:
            with pytest.warns(UserWarning, match="influence each other"):
                value = penalty(z, rng=seeded())
        else:
            value = penalty(z, rng=seeded())
        probes = signs(z, 2, seeded())
        expected = hessian_penalty(G, z + 0.1 * probes[0], probes=probes, gradient="dense")
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(parameter_gradients(value, G), parameter_gradients(expected, G))


def test_nothing_is_recorded_where_the_penalty_is_not_due(G):
    z = randn(6, 4)
    for penalty, kimg in (
        (HessianPenalty(G, weight=0.0), None),
        (HessianPenalty(G, start_kimg=5.0), 1.0),
    ):
        penalty.generate(z, kimg=kimg)
        assert penalty._recorded is None
    penalty = HessianPenalty(G, interval=3)
    recorded = []
    for _ in range(7):
        penalty.generate(z)
        recorded.append(penalty._recorded is not None)
        penalty(z)
    assert recorded == [True, False, False, True, False, False, True]


def test_layer_order_is_learned_from_the_recorded_pass():
    class Tail(nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return x

    G = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), Tail()).double()
    penalty = HessianPenalty(G, layers="1")
    z = randn(5, 4)
    penalty.generate(z)
    penalty(z)
    assert G[2].calls == 1


def test_a_copy_between_the_pass_and_the_call_goes_without_it(G):
    z = randn(8, 4)
    penalty = HessianPenalty(G, weight=1.0, reduction="mean")
    images = penalty.generate(z)
    copied = copy.deepcopy(penalty)
    expected = hessian_penalty(G, z, reduction="mean", rng=seeded())
    assert copied(z, rng=seeded()).item() == pytest.approx(expected.item(), rel=1e-12)
    with_pass = penalty(z, rng=seeded())
    assert images.requires_grad and with_pass.item() != pytest.approx(expected.item(), rel=1e-6)  # another centre
