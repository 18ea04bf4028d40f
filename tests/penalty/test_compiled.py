"""Under torch.compile: a compiled generator, a compiled part of one, and a compiled training step."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import HessianPenalty, hessian_penalty

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


Z, PROBES = randn(5, 4), randn(2, 5, 4, seed=1).sign()


@pytest.fixture
def G():
    torch._dynamo.reset()
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture
def backend():
    """Runs graphs as they are, and counts them."""

    def compile_graph(graph, example_inputs):
        compile_graph.graphs += 1
        return graph.forward

    compile_graph.graphs = 0
    return compile_graph


@pytest.mark.parametrize("options", [{}, {"gradient": "dense"}, {"reduction": "mean"}])
def test_a_compiled_generator_has_the_same_penalty(G, backend, options):
    compiled = torch.compile(G, backend=backend)
    expected = hessian_penalty(G, Z, probes=PROBES, **options)
    value = hessian_penalty(compiled, Z, probes=PROBES, **options)
    torch.testing.assert_close(value, expected)
    gradients = [torch.autograd.grad(loss, G.parameters(), allow_unused=True) for loss in (value, expected)]
    torch.testing.assert_close(*gradients)
    assert backend.graphs > 0


@pytest.mark.parametrize("wrap", [lambda G, b: torch.compile(G, backend=b), lambda G, b: G.compile(backend=b) or G])
def test_layers_of_a_compiled_generator_have_their_own_names(G, backend, wrap):
    expected = hessian_penalty(G, Z, probes=PROBES, layers="1")
    compiled = wrap(G, backend)
    compiled(Z)
    torch.testing.assert_close(hessian_penalty(compiled, Z, probes=PROBES, layers="1"), expected)
    penalty = HessianPenalty(compiled, layers="1", weight=1.0)
    images = penalty.generate(Z)
    torch.testing.assert_close(images, G(Z))
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    torch.testing.assert_close(penalty(Z, rng=seeded[0]), hessian_penalty(G, Z, layers="1", rng=seeded[1]))


def test_layers_inside_a_compiled_part(G, backend):
    whole = nn.Sequential(torch.compile(G, backend=backend), nn.Linear(3, 2).double())
    torch.testing.assert_close(
        hessian_penalty(whole, Z, probes=PROBES, layers="0.1"), hessian_penalty(G, Z, probes=PROBES, layers="1")
    )


STEP = """
import torch
from torch import nn
from hessian_penalty import hessian_penalty

torch.manual_seed(0)
G = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
z, probes = torch.randn(5, 4, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64).sign()
graphs = []

def backend(graph, example_inputs):
    graphs.append(graph)
    return graph.forward

def step(z):
    return G(z).square().mean() + 0.1 * hessian_penalty(G, z, probes=probes)

loss = torch.compile(step, backend=backend)(z)  # the first call of all
expected = step(z)
gradients = [torch.autograd.grad(value, G.parameters()) for value in (loss, expected)]
torch.testing.assert_close(loss, expected)
torch.testing.assert_close(*gradients)
assert len(graphs) == 2, graphs  # what comes before the penalty, and what comes after
"""


def test_inside_a_compiled_training_step():
    """In a process of its own, without the run-time shape checks, which do not compile."""
    done = subprocess.run([sys.executable, "-c", STEP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
