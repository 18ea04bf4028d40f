import sys

import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.kernel_distance import kernel_distance


def normal(count, seed, mean=0.0):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def unbiased_mmd(first, second):
    """The definition, with its sums over unequal pairs written out."""
    x, y = first.numpy(), second.numpy()

    def kernel(a, b):
        return (a @ b / a.shape[0] + 1) ** 3

    def within(z):
        return np.mean([kernel(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    return within(x) + within(y) - 2 * np.mean([[kernel(a, b) for b in y] for a in x])


def test_formula_where_every_subset_is_everything():
    first, second = normal(30, 0), normal(30, 1, mean=0.3)
    found = kernel_distance(first, second, subsets=3, subset_size=1000)
    assert found.subset_size == 30
    assert found.mean == pytest.approx(unbiased_mmd(first, second), rel=1e-9)
    assert found.std == 0


def test_unbiased_at_equal_distributions_and_larger_at_others():
    values = [kernel_distance(normal(50, 2 * s), normal(50, 2 * s + 1), subsets=1).mean for s in range(60)]
    z = np.mean(values) / (np.std(values, ddof=1) / np.sqrt(len(values)))
    assert abs(z) < 4
    assert min(values) < 0
    assert kernel_distance(normal(50, 0), normal(50, 1, mean=1.0)).mean > max(values)


def test_seeded_and_leaves_the_global_generators_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("seeds the accelerator"))
    first, second = normal(60, 0), normal(60, 1)
    state = torch.get_rng_state()
    a, b, c = (kernel_distance(first, second, subsets=5, subset_size=20, seed=seed) for seed in (0, 0, 1))
    assert a == b != c
    assert a.std > 0
    assert torch.equal(torch.get_rng_state(), state)


def test_errors(monkeypatch):
    with pytest.raises(UserError, match="A kernel distance needs at least 2 generated images, got 1"):
        kernel_distance(normal(1, 0), normal(5, 0))
    with pytest.raises(UserError, match="A kernel distance needs finite features"):
        kernel_distance(normal(5, 0), normal(5, 0) / 0)
    with pytest.raises(UserError, match="subset_size must be a finite number at least 2, got 1"):
        kernel_distance(normal(5, 0), normal(5, 0), subset_size=1)
    with pytest.raises(UserError, match="subsets must be a finite number at least 1, got 0"):
        kernel_distance(normal(5, 0), normal(5, 0), subsets=0)
    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(UserError, match=r"torchmetrics: pip install 'hessian-penalty\[features\]'"):
        kernel_distance(normal(5, 0), normal(5, 0))
