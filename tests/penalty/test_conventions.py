"""What published implementations return, in units of ours: docs/migration.md in equations.

Each formula is written down from its definition, G(z) included and without a factor 1/2, and evaluated at the probes
that ours gets.
"""

from itertools import product

import numpy as np
import pytest
import torch

from hessian_penalty.penalty import hessian_penalty, orojar

F64 = torch.float64
EPSILON = 0.1
PROBE_COUNTS = pytest.mark.parametrize("k", [2, 3, 5])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def signs(*shape):
    return randn(*shape, seed=1).sign()


def second_differences(G, z, probes):
    """[G(z + εv) - 2 G(z) + G(z - εv)] / ε² for every probe: (k, batch, ...)."""
    return torch.stack([(G(z + EPSILON * v) - 2 * G(z) + G(z - EPSILON * v)) / EPSILON**2 for v in probes])


def squared_speeds(G, z, probes, epsilon=EPSILON):
    """‖[G(z + εv) - G(z)] / ε‖² for every probe, the norm over all elements of a sample: (k, batch)."""
    return torch.stack([((G(z + epsilon * v) - G(z)) / epsilon).flatten(1).square().sum(dim=1) for v in probes])


def exact_orojar(G, z):
    """Σ_{i≠j} (J_i^T J_j)² of every sample, with the Jacobian by autodiff."""
    J = torch.func.vmap(torch.func.jacfwd(lambda x: G(x[None]).flatten()))(z)
    products = J.mT @ J
    return products.square().sum(dim=(1, 2)) - products.diagonal(dim1=1, dim2=2).square().sum(dim=1)


@PROBE_COUNTS
def test_unbiased_variance_is_twice_ours(blocks, k):
    """The paper authors' PyTorch file, and torch.max or torch.mean of it."""
    z, probes = randn(6, 4), signs(k, 6, 4)
    published = second_differences(blocks, z, probes).var(dim=0, unbiased=True)
    ours = hessian_penalty(blocks, z, k=k, probes=probes, reduction="none")
    # second differences are exact to 1e-16 / epsilon^2 = 1e-14
    torch.testing.assert_close(published, 2 * ours, rtol=1e-10, atol=1e-13)
    for reduction, published_reduction in (("max", torch.max), ("mean", torch.mean)):
        value = hessian_penalty(blocks, z, k=k, probes=probes, reduction=reduction)
        torch.testing.assert_close(published_reduction(published), 2 * value, rtol=1e-10, atol=0)


@PROBE_COUNTS
def test_numpy_variance_with_ddof_1_is_twice_ours(k):
    """The paper authors' NumPy file."""
    z, probes = randn(6, 3), signs(k, 6, 3)
    G = lambda z: z[:, :2] * z[:, 1:] ** 2  # noqa: E731
    x, steps = z.numpy(), EPSILON * probes.numpy()
    published = np.var([(G(x + s) - 2 * G(x) + G(x - s)) / EPSILON**2 for s in steps], axis=0, ddof=1)
    ours = hessian_penalty(G, z, k=k, probes=probes, reduction="none")
    np.testing.assert_allclose(published, 2 * ours.numpy(), rtol=1e-9, atol=1e-12)


@PROBE_COUNTS
def test_population_variance_depends_on_k_and_is_ours_at_2(blocks, k):
    """The paper authors' TensorFlow files: moments over the probes, without Bessel's correction."""
    z, probes = randn(6, 4), signs(k, 6, 4)
    published = second_differences(blocks, z, probes).var(dim=0, unbiased=False)
    ours = hessian_penalty(blocks, z, k=k, probes=probes, reduction="none")
    torch.testing.assert_close(published, 2 * (k - 1) / k * ours, rtol=1e-10, atol=1e-13)
    if k == 2:
        torch.testing.assert_close(published, ours, rtol=1e-10, atol=1e-13)


@PROBE_COUNTS
def test_twice_the_weight_gives_the_published_gradient(blocks, k):
    """Which also shows that the gradient through G(z) cancels."""
    z, probes = randn(6, 4), signs(k, 6, 4)
    second_differences(blocks, z, probes).var(dim=0).max().mul(0.1).backward()
    published = [p.grad.clone() for p in blocks.parameters() if p.grad is not None]
    blocks.zero_grad()
    (0.2 * hessian_penalty(blocks, z, k=k, probes=probes)).backward()
    ours = [p.grad for p in blocks.parameters() if p.grad is not None]
    torch.testing.assert_close(ours, published, rtol=1e-8, atol=1e-10)


def test_several_outputs_are_reduced_one_by_one_and_summed(blocks):
    z, probes = randn(6, 4), signs(2, 6, 4)
    layers = range(len(blocks.activations(z)))
    published = [second_differences(lambda z, i=i: blocks.activations(z)[i], z, probes).var(dim=0) for i in layers]
    ours = hessian_penalty(blocks.activations, z, probes=probes)
    torch.testing.assert_close(sum(p.max() for p in published), 2 * ours)
    separately = hessian_penalty(blocks.activations, z, probes=probes, reduction="none")
    torch.testing.assert_close([p.max() for p in published], [2 * e.max() for e in separately])


@PROBE_COUNTS
def test_published_orojar_in_units_of_ours(blocks, k):
    """PyTorch: unbiased variance. TensorFlow: population variance. One number a sample, whatever its elements."""
    G = lambda z: blocks(z).reshape(-1, 3, 1, 1)  # noqa: E731
    z, probes = randn(6, 4), signs(k, 6, 4)
    ours = orojar(G, z, k=k, probes=probes, reduction="none")
    assert ours.shape == (6,)
    published = squared_speeds(G, z, probes)
    torch.testing.assert_close(published.var(dim=0, unbiased=True), 2 * ours, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(published.var(dim=0, unbiased=False), 2 * (k - 1) / k * ours, rtol=1e-9, atol=1e-11)
    for reduction, published_reduction in (("max", torch.max), ("mean", torch.mean)):
        value = orojar(G, z, k=k, probes=probes, reduction=reduction)
        torch.testing.assert_close(published_reduction(published.var(dim=0)), 2 * value, rtol=1e-9, atol=0)


def test_published_orojar_over_all_signs_tends_to_its_definition(blocks):
    """The variance's error goes as ε²: the ε term of ‖Jv‖² is odd in v, ‖Jv‖² itself even."""
    z = randn(2, 4)
    probes = torch.tensor(list(product((1.0, -1.0), repeat=4)), dtype=F64)[:, None].expand(-1, 2, -1)
    expected = exact_orojar(blocks, z)
    coarse, fine = (
        squared_speeds(blocks, z, probes, epsilon).var(dim=0, unbiased=False) / 2 - expected for epsilon in (1e-2, 5e-3)
    )
    assert (fine.abs() < 1e-2 * expected).all()
    torch.testing.assert_close(coarse / fine, torch.full((2,), 4.0, dtype=F64), rtol=0.1, atol=0)
