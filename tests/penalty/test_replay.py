"""One call, one function: the same random numbers and buffers in every pass, and no trace afterwards."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from hessian_penalty.penalty import HessianPenalty, hessian_energy, hessian_entries, hessian_penalty
from hessian_penalty.penalty.reachable import reachable

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


Z, PROBES = randn(6, 4), randn(2, 6, 4, seed=1).sign()


class Noisy(nn.Module):
    """Latent-dependent noise: z1 z2 times a draw, so the penalty depends on what is drawn."""

    def __init__(self, draw=lambda z: torch.randn(len(z), 1, dtype=F64)):
        super().__init__()
        self.draw = draw

    def forward(self, z):
        return z[:, :1] * z[:, 1:2] * self.draw(z) + 5 * self.draw(z)

    def decode(self, z):
        return self(z)


def fixed(noise):
    """The function of z that `Noisy` is while its two draws are `noise`."""
    first, second = noise
    return lambda z: z[:, :1] * z[:, 1:2] * first + 5 * second


def how_it_is_called(G):
    return [
        G,
        G.decode,
        lambda z: G(z),
        lambda z: [G(z)],
        partial(lambda G, z: G(z), G),
        partial(lambda *args, G: G(*args), G=G),
    ]


@pytest.mark.parametrize("how", range(6))
@pytest.mark.parametrize(
    "options", [{"gradient": "dense"}, {"reduction": "mean"}, {"reduction": "mean", "chunk_size": 99}, {}]
)
def test_all_corners_see_the_same_noise(how, options):
    G = how_it_is_called(Noisy())[how]
    torch.manual_seed(3)
    noise = torch.randn(6, 1, dtype=F64), torch.randn(6, 1, dtype=F64)
    after_one_pass = torch.get_rng_state()
    reduction = options.get("reduction", "max")
    expected = hessian_penalty(fixed(noise), Z, probes=PROBES, reduction=reduction, gradient="dense")
    torch.manual_seed(3)
    value = hessian_penalty(G, Z, probes=PROBES, **options)
    torch.testing.assert_close(value, expected)  # noise that differs would add 5^2 / epsilon^4
    assert torch.equal(torch.get_rng_state(), after_one_pass)


def test_dropout_masks_are_those_of_one_forward_pass():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Tanh(), nn.Linear(50, 3)).double()
    torch.manual_seed(5)
    mask = nn.functional.dropout(torch.ones(6, 50, dtype=F64), 0.5)
    expected = hessian_penalty(lambda z: G[3](G[2](G[0](z) * mask)), Z, probes=PROBES, reduction="mean")
    for chunk_size in (None, 12, 24):
        torch.manual_seed(5)
        value = hessian_penalty(G, Z, probes=PROBES, reduction="mean", chunk_size=chunk_size)
        torch.testing.assert_close(value, expected)


def test_whole_hessians_see_the_same_noise():
    torch.manual_seed(3)
    noise = torch.randn(6, 1, dtype=F64), torch.randn(6, 1, dtype=F64)
    after_one_pass = torch.get_rng_state()
    for chunk_size in (None, 60):
        torch.manual_seed(3)
        found = hessian_energy(Noisy(), Z, chunk_size=chunk_size)
        assert torch.equal(torch.get_rng_state(), after_one_pass)
        torch.testing.assert_close(found, hessian_energy(fixed(noise), Z))


def test_probes_come_first_and_then_one_pass_of_random_numbers():
    torch.manual_seed(3)
    hessian_penalty(Noisy(), Z)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    torch.randint(0, 2, (2, 6, 4))
    Noisy()(Z)
    assert torch.equal(torch.get_rng_state(), after)


@pytest.mark.parametrize("where", ["attribute", "condition", "closure"])
def test_generators_that_G_holds_are_replayed_too(where):
    own = torch.Generator().manual_seed(7)
    draw = lambda z, rng: torch.randn(len(z), 1, dtype=F64, generator=rng)  # noqa: E731
    G = Noisy()
    G.rng = own
    G.draw = {
        "attribute": lambda z: draw(z, G.rng),
        "closure": lambda z: draw(z, own),
        "condition": None,
    }[where]
    call = G
    conditions = {}
    if where == "closure":
        call = lambda z: G(z)  # noqa: E731
    if where == "condition":
        call = lambda z, source: Noisy(lambda z: draw(z, source))(z)  # noqa: E731
        conditions = {"source": own}
    start = torch.Generator().manual_seed(7)
    noise = draw(Z, start), draw(Z, start)
    value = hessian_penalty(call, Z, probes=PROBES, reduction="mean", **conditions)
    torch.testing.assert_close(value, hessian_penalty(fixed(noise), Z, probes=PROBES, reduction="mean"))
    assert torch.equal(own.get_state(), start.get_state())


def test_a_generator_that_draws_goes_dense_without_a_word_unless_sparse_was_asked_for():
    torch.manual_seed(3)
    value = hessian_penalty(Noisy(), Z, probes=PROBES)
    torch.manual_seed(3)
    assert value == hessian_penalty(Noisy(), Z, probes=PROBES, gradient="dense")
    with pytest.warns(UserWarning, match="G draws random numbers, which one sample alone would not get"):
        hessian_penalty(Noisy(), Z, gradient="sparse")


def networks_with_state():
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)).double()
    spectral = nn.Sequential(spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)).double()
    return {"batch norm": norm, "spectral norm": spectral}


@pytest.mark.parametrize("kind", ["batch norm", "spectral norm"])
@pytest.mark.parametrize("how", [lambda G: G, lambda G: lambda z: G(z), lambda G: partial(G.forward)])
def test_buffers_are_as_before(kind, how):
    G = networks_with_state()[kind]
    before = {name: buffer.clone() for name, buffer in G.named_buffers()}
    identities = dict(G.named_buffers())
    hessian_penalty(how(G), Z, gradient="dense")
    after = dict(G.named_buffers())
    assert before and all(torch.equal(before[name], after[name]) for name in before)
    assert all(after[name] is identities[name] for name in before)
    G(Z)
    assert any(not torch.equal(before[name], buffer) for name, buffer in G.named_buffers())  # else there is no test


def test_power_iterations_do_not_pass_for_curvature():
    """In training mode each pass changes the weight; a linear G must still have no second difference."""
    torch.manual_seed(0)
    G = spectral_norm(nn.Linear(4, 3)).double()
    assert hessian_penalty(G, Z) < 1e-20


def test_buffers_that_G_replaces_come_back():
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(4, dtype=F64))

        def forward(self, z):
            result = z.prod(dim=1, keepdim=True) + self.mean.sum()
            self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(dim=0)
            return result

    G = Averaging()
    buffer = G.mean
    value = hessian_penalty(G, Z, probes=PROBES, reduction="mean")
    assert G.mean is buffer and torch.equal(buffer, torch.zeros(4, dtype=F64))
    torch.testing.assert_close(value, hessian_penalty(lambda z: z.prod(dim=1), Z, probes=PROBES, reduction="mean"))


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_buffers_of_a_script_module_come_back():
    G = networks_with_state()["batch norm"]
    scripted = torch.jit.script(G)
    expected = hessian_penalty(G, Z, probes=PROBES, reduction="mean")
    torch.testing.assert_close(hessian_penalty(scripted, Z, probes=PROBES, reduction="mean"), expected)
    assert all(torch.equal(a, b) for a, b in zip(scripted.buffers(), G.buffers(), strict=True))
    assert int(G[1].num_batches_tracked) == 0


def test_restoring_does_not_break_the_graph_of_the_main_loss():
    G = networks_with_state()["batch norm"].eval()  # evaluation mode keeps the running statistics for backward
    main_loss = G(Z).square().mean()
    (main_loss + hessian_penalty(G, Z)).backward()
    assert G[0].weight.grad.abs().max() > 0


def test_buffers_come_back_after_an_error():
    G = networks_with_state()["batch norm"]
    before = G[1].running_mean.clone()

    def fail(module, inputs):
        raise RuntimeError("inside G")

    handle = G[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="inside G"):
        hessian_penalty(G, Z)
    handle.remove()
    assert torch.equal(G[1].running_mean, before)


OWN = np.random.default_rng(0)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, z):
        self.calls += 1
        return z * self.calls


@pytest.mark.parametrize(
    "options", [{"reduction": "mean"}, {}, {"gradient": "sparse"}, {"chunk_size": 12, "reduction": "mean"}]
)
@pytest.mark.parametrize(
    ("G", "cause"),
    [
        (lambda z: z + torch.as_tensor(np.random.rand(len(z), 1)), "it draws from NumPy's global generator"),  # noqa: NPY002
        (lambda z: z * random.random(), "it draws from Python's `random`"),
        (
            lambda z: z * OWN.random(),
            "a generator of its own, such as NumPy's, or an attr",
        ),
        (Counting(), "an attribute of it changes with each call"),
    ],
)
def test_what_is_no_function_of_z_is_refused_with_its_cause(G, cause, options):
    with pytest.raises(ValueError, match=f"`G` is not a function of `z`: .* output 0 differs by up to .*{cause}"):
        hessian_penalty(G, Z, **options)


def test_a_generator_is_checked_once():
    calls = []

    def G(z):
        calls.append(torch.is_grad_enabled())
        return z.prod(dim=1)

    for expected in ([True, False, True, True, True], [True] * 4):
        calls.clear()
        hessian_penalty(G, Z, reduction="mean")
        assert calls == expected
    net = nn.Linear(4, 2).double()
    for index in range(2):  # a new lambda each time, but the same code and module
        calls.clear()
        hessian_penalty(lambda z: calls.append(1) or net(z), Z, reduction="mean")
        assert len(calls) == (5 if index == 0 else 4)
    penalty = HessianPenalty(G, reduction="mean")
    calls.clear()
    penalty(Z)
    assert len(calls) == 4


def test_rounding_passes_for_a_function():
    """Kernels may round differently from call to call, on a GPU for instance."""
    noise = iter([0.0, 1e-7, 0.0, 0.0, 0.0])
    hessian_penalty(lambda z: z + next(noise), Z.float(), reduction="mean")


def test_what_a_callable_holds_is_found():
    G, other = nn.Linear(2, 2), nn.Linear(2, 2)
    rng = torch.Generator()

    class Holder:
        def __init__(self):
            self.parts = {"generator": [G]}

        def __call__(self, z):
            return z

        def method(self, z):
            return z

    holder = Holder()
    for callable_ in (
        G,
        G.forward,
        holder,
        holder.method,
        partial(holder),
        lambda z: holder(z),
        lambda z, m=G: m(z),
        [G],
        torch.compile(G, backend="eager"),
    ):
        assert G in reachable(callable_)[0]
    modules, generators = reachable(lambda z: (G, other, rng))
    assert {G, other} <= set(modules) and generators == [rng]
    assert reachable(torch.nn.functional.interpolate)[0] == []
    assert reachable(lambda z: later(z))[0] == []


def test_data_is_not_looked_into():
    class Endless(dict):
        def values(self):
            raise AssertionError("looked into")

    assert reachable([Endless({i: i for i in range(2000)})]) == ([], [])


class Advancing(nn.Module):
    """A buffer that is advanced in place and then used: a fade-in counter."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
        self.register_buffer("alpha", torch.ones((), dtype=F64))

    def forward(self, z):
        self.alpha.mul_(0.5)
        return self.net(z) * self.alpha


@pytest.mark.parametrize("options", [{"gradient": "sparse"}, {"gradient": "dense"}, {"reduction": "mean"}])
def test_gradient_through_a_buffer_that_each_pass_advances(options):
    G = Advancing()
    value = hessian_penalty(G, Z, probes=PROBES, **options)
    expected = hessian_penalty(lambda z: G.net(z) * 0.5, Z, probes=PROBES, **options)
    gradients = [torch.autograd.grad(loss, G.parameters(), allow_unused=True) for loss in (value, expected)]
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(*gradients)
    assert G.alpha == 1


def test_the_main_loss_can_go_back_after_the_penalty():
    G = Advancing()
    main_loss = G(Z).square().mean()
    hessian_penalty(G, Z, reduction="mean")
    main_loss.backward()
    assert G.net[0].weight.grad.abs().max() > 0


def test_a_result_that_is_a_buffer_survives():
    class Writing(Advancing):
        def forward(self, z):
            self.alpha = torch.zeros(len(z), 2, dtype=F64)
            self.alpha.copy_(self.net(z))
            return self.alpha

    G = Writing()
    with torch.no_grad():
        value = hessian_penalty(G, Z, probes=PROBES)
        torch.testing.assert_close(value, hessian_penalty(G.net, Z, probes=PROBES))


def test_tied_and_empty_buffers_come_back_as_they_were():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            shared = torch.ones((), dtype=F64)
            self.register_buffer("a", shared)
            self.register_buffer("b", shared)
            self.register_buffer("cache", None)

        def forward(self, z):
            self.cache = z.detach()
            self.a.mul_(2)
            return z.prod(dim=1) * self.b

    G = Tied()
    value = hessian_penalty(G, Z, probes=PROBES, reduction="mean")
    torch.testing.assert_close(value, hessian_penalty(lambda z: 2 * z.prod(dim=1), Z, probes=PROBES, reduction="mean"))
    assert G.a is G.b and G.a == 1 and G.cache is None


def test_latents_that_G_writes_over_stay():
    z = Z.clone()
    value = hessian_penalty(lambda z: z.mul_(2).prod(dim=1), z, probes=PROBES, reduction="mean")
    torch.testing.assert_close(
        value, hessian_penalty(lambda z: (2 * z).prod(dim=1), Z, probes=PROBES, reduction="mean")
    )
    assert torch.equal(z, Z)


def test_random_numbers_of_the_caller_between_entries_do_not_matter():
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 1)).double()
    entries = hessian_entries(G, Z)
    torch.randn(3)
    for entry in entries:
        torch.randn(3)
        assert entry.values.abs().max() < 1e-10


def test_the_same_code_over_something_else_is_checked_again():
    def make(draw):
        return lambda z: z.prod(dim=1) + draw()

    hessian_penalty(make(lambda: 0.0), Z, reduction="mean")
    with pytest.raises(ValueError, match="not a function of `z`"):
        hessian_penalty(make(OWN.random), Z, reduction="mean")


def test_modules_in_lists_nested_functions_and_callable_classes_are_found():
    class Hiding(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = [nn.BatchNorm1d(4)]

    hiding = Hiding()
    assert hiding.hidden[0] in reachable(hiding)[0]
    assert NET in reachable(lambda z: [NET(row[None]) for row in z])[0]
    assert NET in reachable(lambda z: (lambda x: NET(x))(z))[0]

    class Caller:
        def __call__(self, z):
            return NET(z)

    assert NET in reachable(Caller())[0]


NET = nn.Linear(4, 4)


def test_proxies_and_much_data_do_no_harm():
    class Proxy:
        @property
        def __class__(self):
            raise RuntimeError("outside of a context")

    class Trainer:
        def __init__(self):
            self.G = NET
            self.table = {i: [[1.0] * 900 for _ in range(900)] for i in range(3)}
            self.proxy = Proxy()

        def generate(self, z):
            return self.G(z)

    assert NET in reachable(Trainer().generate)[0]


@pytest.mark.parametrize("options", [{"reduction": "mean"}, {}])
def test_one_tensor_for_every_result_is_refused(options):
    net, kept = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double(), torch.zeros(6, 3, dtype=F64)

    def G(z):
        with torch.no_grad():
            return kept.copy_(net(z))

    with torch.no_grad(), pytest.raises(ValueError, match="output 0 of `G` was written over by its next pass"):
        hessian_penalty(G, Z, **options)
