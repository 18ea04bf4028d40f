"""Wrong types get an error that names the argument. Runs without the tests' own type checks, which would come first."""

import subprocess
import sys

import pytest

SETUP = """
import copy
import numpy as np, torch
from torch import nn
from hessian_penalty import HessianPenalty, hessian_entries, hessian_penalty
z = torch.randn(4, 3)
G = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
"""
CASES = [
    ("hessian_penalty(G, z, k=2.0)", "TypeError: `k` must be a whole number, got float 2.0; write 2."),
    ("hessian_penalty(G, z, k=True)", "TypeError: `k` must be a whole number, got bool True"),
    ("hessian_penalty(G, z, chunk_size=7.5)", "TypeError: `chunk_size` must be a whole number, got float 7.5"),
    ("hessian_penalty(G, z, epsilon='0.1')", "TypeError: `epsilon` must be a number, got str '0.1'"),
    ("hessian_penalty(G, z.numpy())", "TypeError: `z` must be a torch.Tensor, got ndarray; pass torch.as_tensor(z)"),
    ("hessian_penalty(G, z.tolist())", "TypeError: `z` must be a torch.Tensor, got list"),
    ("list(hessian_entries(G, z.tolist()))", "TypeError: `z` must be a torch.Tensor, got list"),
    ("hessian_penalty(G, z, probes=[[1.0]])", "TypeError: `probes` must be a torch.Tensor, got list"),
    ("hessian_penalty(G, z, groups=[0, 0, 1])", "TypeError: `groups` must be a torch.Tensor, got list"),
    ("hessian_penalty(G, z, rng=3)", "TypeError: `rng` must be a torch.Generator or None, got int; pass "
                                     "torch.Generator(z.device).manual_seed(3)."),
    ("hessian_penalty('G', z)", "TypeError: `G` must be callable, got str"),
    ("HessianPenalty(G, interval=2.5)", "TypeError: `interval` must be a whole number, got float 2.5"),
    ("HessianPenalty(G, weight='0.1')", "TypeError: `weight` must be a number, got str '0.1'"),
    ("HessianPenalty(G, adaptive='0.1')", "TypeError: `adaptive` must be a number, got str '0.1'"),
    ("HessianPenalty(G, adaptive=0.1, adaptive_interval=1.5)", "TypeError: `adaptive_interval` must be a whole number"),
    ("hessian_penalty(G.bfloat16(), z)", "TypeError: `z` is torch.float32 and `G` has parameters of torch.bfloat16"),
    ("hessian_penalty(G.double(), z)", "TypeError: `z` is torch.float32 and `G` has parameters of torch.float64"),
    ("hessian_penalty(nn.LazyLinear(3), z)", "ValueError: `G` holds a LazyLinear whose parameters have no shape yet"),
    ("hessian_penalty(nn.LazyBatchNorm1d(), z)", "ValueError: `G` holds a LazyBatchNorm1d whose parameters have no"),
    ("hessian_penalty(G, z, k=np.int64(2))", None),
    ("hessian_penalty(G, z, epsilon=np.float32(0.1))", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def messages():
    """What each case raised, all from one process without runtime type checks."""
    lines = [SETUP, "source = copy.deepcopy(G)"]
    for case, _ in CASES:
        lines += [
            "G = copy.deepcopy(source)", "try:", f"    {case}", "    print('nothing')", "except Exception as error:",
            "    print(f'{type(error).__name__}: {error}'.splitlines()[0])",
        ]  # fmt: skip
    found = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    return dict(zip([case for case, _ in CASES], found.stdout.splitlines(), strict=True))


@pytest.mark.parametrize(("case", "message"), CASES)
def test_a_wrong_type_is_named_with_its_remedy(messages, case, message):
    assert messages[case].startswith(message or "nothing")
