"""The sparse gradient against the dense one, and the fallback."""

import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import hessian_penalty
from hessian_penalty.penalty.evaluation import Evaluator

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def value_and_gradients(G, z, parameters, **options):
    z = z.clone().requires_grad_()
    value = hessian_penalty(G, z, **options)
    return value, torch.autograd.grad(value, [*parameters, z], allow_unused=True)


class Outputs(nn.Module):
    """Several outputs of different shapes, each through the ones before it."""

    def __init__(self, count):
        super().__init__()
        torch.manual_seed(count)
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(count)).double()
        self.passes = []

    def forward(self, z, scale=1.0):
        self.passes.append((len(z), torch.is_grad_enabled()))
        outputs = []
        for layer in self.layers:
            z = torch.tanh(3 * layer(z)) * scale
            outputs.append(z[:, :, None] * torch.ones(2, dtype=z.dtype) if len(outputs) % 2 else z)
        return outputs


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("scale_free", [False, True])
def test_sparse_equals_dense_in_value_and_gradient(count, scale_free):
    G, z, probes = Outputs(count), randn(6, 5), randn(2, 6, 5, seed=9).sign()
    scale = torch.linspace(0.5, 1.5, 6, dtype=F64)[:, None]  # follows the samples
    options = {"probes": probes, "scale_free": scale_free, "scale": scale}
    dense, dense_gradients = value_and_gradients(G, z, G.parameters(), gradient="dense", **options)
    G.passes.clear()
    sparse, sparse_gradients = value_and_gradients(G, z, G.parameters(), gradient="sparse", **options)
    torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=0)
    for ours, theirs in zip(sparse_gradients, dense_gradients, strict=True):
        assert theirs.abs().max() > 1e-6
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)
    with_graph = sum(rows for rows, graph in G.passes if graph)
    assert with_graph <= 4 * min(count, 6) + 6 * scale_free
    assert [rows for rows, graph in G.passes if not graph] == [6] * 4


def test_auto_is_sparse_for_max_and_dense_for_mean_and_without_grad():
    G, z = Outputs(1), randn(6, 5)
    hessian_penalty(G, z, gradient="dense")  # the first call for a G makes sure that it is a function
    for reduction, passes in (("max", [(6, False)] * 4 + [(4, True)]), ("mean", [(6, True)] * 4)):
        G.passes.clear()
        hessian_penalty(G, z, reduction=reduction)
        assert G.passes == passes
    G.passes.clear()
    with torch.no_grad():
        assert not hessian_penalty(G, z).requires_grad
    assert G.passes == [(6, False)] * 4


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()

    def forward(self, z):
        return self.net(z)


def test_coupled_samples_fall_back_to_dense_with_one_warning():
    G, z, probes = Normalised(), randn(6, 4), randn(2, 6, 4, seed=1).sign()
    with pytest.warns(UserWarning, match="influence each other") as caught:
        value, gradients = value_and_gradients(G, z, G.parameters(), probes=probes)
    assert len(caught) == 1
    dense, dense_gradients = value_and_gradients(G, z, G.parameters(), probes=probes, gradient="dense")
    torch.testing.assert_close(value, dense)
    torch.testing.assert_close(gradients, dense_gradients)
    one_batch_a_pass = [G(z + sign * 0.1 * v) for v in probes for sign in (1, -1)]
    x = torch.stack((one_batch_a_pass[0] + one_batch_a_pass[1], one_batch_a_pass[2] + one_batch_a_pass[3])) / 0.01
    torch.testing.assert_close(value, (0.5 * x.var(dim=0)).max())


def test_eval_mode_does_not_fall_back():
    hessian_penalty(Normalised().eval(), randn(6, 4))  # a warning would be an error


@pytest.mark.parametrize("seed", range(5))
def test_rounding_in_float32_is_no_reason_to_fall_back(seed):
    """An additive G has penalty 0 up to rounding, which differs from one evaluation to the next."""
    torch.manual_seed(seed)
    W = torch.randn(16, 512)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = hessian_penalty(lambda z: 5 + z.sin().repeat(1, 64) @ W.T, torch.randn(33, 8))
    assert value < 1e-2  # roundings of a sum of size 20, 2e-6 each, over epsilon^2


def test_tied_maxima_give_the_same_value():
    z = torch.zeros(4, 2, dtype=F64)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 4, 2)
    torch.testing.assert_close(hessian_penalty(lambda z: z.prod(dim=1), z, probes=probes), torch.tensor(4.0, dtype=F64))


def test_samples_are_repeated_only_as_deep_as_they_are_needed():
    """Sample 1 holds the maximum of the first layer, sample 4 those of the others."""

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = []
            self.first, self.second, self.third = nn.Identity(), nn.Identity(), nn.Identity()
            self.weight = nn.Parameter(torch.ones((), dtype=F64))

        def forward(self, z, one, others):
            self.rows.append([len(z)])
            x = self.weight * z[:, :1] * z[:, 1:]
            x = self.first(x * one)
            self.rows[-1].append(len(z))
            x = self.second(x / one * others)
            self.rows[-1].append(len(z))
            return self.third(x)

    z = torch.zeros(6, 2, dtype=F64)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 6, 2)
    one, others = torch.ones(2, 6, 1, dtype=F64)
    one[1], others[4] = 3, 5
    G = Layers()
    options = {"layers": ["first", "second", "third"], "probes": probes, "one": one, "others": others}
    value = hessian_penalty(G, z, **options)
    torch.testing.assert_close(value, torch.tensor(4.0 * (9 + 25 + 25), dtype=F64))
    assert G.rows == [[6, 6, 6]] * 4 + [[4], [4, 4, 4]]
    value.backward()
    torch.testing.assert_close(G.weight.grad, 2 * value.detach())


def test_a_generator_that_holds_the_batch_goes_dense_and_says_how_to_avoid_it():
    z, y = randn(6, 5), randn(6, 5, seed=2)
    dense = hessian_penalty(lambda z: (z + y).prod(dim=1), z, probes=PROBES, gradient="dense")
    with pytest.warns(UserWarning, match="does not run for some samples .* pass them as keyword arguments"):
        value = hessian_penalty(lambda z: (z + y).prod(dim=1), z, probes=PROBES)
    assert value == dense
    by_name = hessian_penalty(lambda z, y: (z + y).prod(dim=1), z, probes=PROBES, y=y)
    torch.testing.assert_close(by_name, dense)


def test_processes_that_wait_for_each_other_make_as_many_passes(monkeypatch):
    G = Outputs(3)
    hessian_penalty(G, randn(6, 5), gradient="dense")
    monkeypatch.setattr(Evaluator, "synchronises", True)
    G.passes.clear()
    hessian_penalty(G, randn(6, 5))
    assert G.passes == [(6, True)] * 4


PROBES = randn(2, 6, 5, seed=9).sign()
LINE = """
import torch
from torch import nn
from hessian_penalty import HessianPenalty, hessian_penalty

G = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
hessian_penalty(G, torch.randn(6, 4))
HessianPenalty(G)(torch.randn(6, 4))
"""


def test_the_warning_points_at_the_line_of_the_caller(tmp_path):
    """In a process of its own, without the run-time shape checks and their frames."""
    script = tmp_path / "training.py"
    script.write_text(LINE)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert "training.py:7: UserWarning: the samples of a batch influence" in done.stderr
    assert "training.py:8: UserWarning" in done.stderr
