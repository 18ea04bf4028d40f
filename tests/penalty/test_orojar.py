"""Orthogonal Jacobian Regularization against exact Jacobians."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hessian_penalty.penalty import OroJaR, orojar

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def exact(G, z):
    """Sum of squared products of different columns of the Jacobian of a whole sample, by automatic differentiation."""
    penalties = []
    for sample in z:
        jacobian = torch.autograd.functional.jacobian(lambda w: G(w[None])[0].flatten(), sample)  # (elements, n)
        gram = jacobian.T @ jacobian
        penalties.append(gram.square().sum() - gram.diagonal().square().sum())
    return torch.stack(penalties)


def enumerated(G, z, epsilon, **options):
    """The population variance over all sign vectors, by the estimator's sample variance over all of them."""
    n = z.shape[1]
    signs = torch.tensor(list(product((1.0, -1.0), repeat=n)), dtype=F64)[:, None].expand(-1, len(z), -1)
    m = len(signs)
    return orojar(G, z, k=m, probes=signs, epsilon=epsilon, reduction="none", **options) * (m - 1) / m


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_a_linear_generator_has_its_gram_matrix(n):
    J = randn(7, n)
    gram = J.T @ J
    expected = gram.square().sum() - gram.diagonal().square().sum()
    found = enumerated(lambda z: z @ J.T + 3, randn(3, n), 0.1)
    torch.testing.assert_close(found, expected.expand(3), rtol=1e-9, atol=1e-10)


def test_error_against_the_exact_jacobian_falls_with_epsilon(blocks):
    z = randn(3, 4)
    truth = exact(blocks, z)
    with torch.no_grad():
        errors = [float((enumerated(blocks, z, epsilon) - truth).abs().max()) for epsilon in (1e-2, 1e-3, 1e-4)]
    # Over all signs the terms of odd order cancel: the error is of second order.
    assert errors[1] < errors[0] / 50 and errors[2] < 1e-5 * float(truth.max())


def test_images_are_flattened_and_layers_are_summed(blocks):
    z, probes = randn(5, 4), randn(2, 5, 4, seed=1).sign()
    images = lambda z: blocks(z)[:, :, None, None].expand(-1, 3, 2, 2)  # noqa: E731
    # four copies of each element: four times |Jv|^2, sixteen times its variance
    torch.testing.assert_close(orojar(images, z, probes=probes), 16 * orojar(blocks, z, probes=probes))
    parts = [orojar(blocks, z, probes=probes, layers=f"blocks.{i}") for i in range(3)]
    torch.testing.assert_close(orojar(blocks, z, probes=probes, layers="blocks.*"), sum(parts))
    elements = orojar(blocks, z, probes=probes, reduction="none")
    assert elements.shape == (5,)
    torch.testing.assert_close(orojar(blocks, z, probes=probes), elements.max())
    torch.testing.assert_close(orojar(blocks, z, probes=probes, reduction="mean"), elements.mean())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(2, 4), chunk_size=st.sampled_from([None, 1, 12, 100]))
def test_orthogonal_columns_give_zero_and_chunks_change_nothing(seed, k, chunk_size):
    torch.manual_seed(seed)
    J = torch.linalg.qr(torch.randn(7, 4, dtype=F64)).Q * torch.tensor([1.0, 2, 3, 4], dtype=F64)
    z = randn(6, 4, seed=seed)
    assert orojar(lambda z: z @ J.T, z, k=k, chunk_size=chunk_size) < 1e-20
    curved = lambda z: (z @ J.T).sin()  # noqa: E731
    probes = randn(k, 6, 4, seed=seed + 1).sign()
    values = [orojar(curved, z, k=k, probes=probes, chunk_size=size) for size in (None, chunk_size)]
    torch.testing.assert_close(*values)


@pytest.mark.parametrize("k", [2, 5])
def test_estimate_is_unbiased(k):
    J = randn(7, 5)
    gram = J.T @ J
    expected = float(gram.square().sum() - gram.diagonal().square().sum())
    draws = orojar(
        lambda z: z @ J.T,
        torch.zeros(20_000, 5, dtype=F64),
        k=k,
        reduction="none",
        rng=torch.Generator().manual_seed(0),
    )
    assert abs(float(draws.mean()) - expected) < 4 * float(draws.std()) / len(draws) ** 0.5


def test_an_orthogonal_jacobian_is_not_a_diagonal_hessian():
    """z0 + z1 has no Hessian and parallel columns; the polar map has orthogonal columns and a Hessian."""
    from hessian_penalty.penalty import hessian_penalty

    z = randn(64, 2).abs() + 0.5
    summed = lambda z: z.sum(dim=1, keepdim=True)  # noqa: E731
    polar = lambda z: z[:, :1] * torch.cat((z[:, 1:].cos(), z[:, 1:].sin()), dim=1)  # noqa: E731
    assert hessian_penalty(summed, z) < 1e-20 and orojar(summed, z) > 1
    assert hessian_penalty(polar, z) > 0.1 and orojar(polar, z, epsilon=1e-4) < 1e-6


@pytest.mark.parametrize("scale_free", [False, True])
def test_sparse_equals_dense_in_value_and_gradient(blocks, scale_free):
    z, probes = randn(6, 4).requires_grad_(), randn(2, 6, 4, seed=1).sign()
    found = []
    for gradient in ("sparse", "dense"):
        value = orojar(blocks, z, probes=probes, layers="act", gradient=gradient, scale_free=scale_free)
        found.append((value, *torch.autograd.grad(value, [*blocks.blocks.parameters(), z])))
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


def test_gradient_equals_that_of_the_definition(blocks):
    z = randn(4, 4)
    value = enumerated(blocks, z, 1e-4).mean()

    def by_definition():
        total = 0.0
        for sample in z:
            J = torch.autograd.functional.jacobian(lambda w: blocks(w[None])[0], sample, create_graph=True)
            gram = J.T @ J
            total = total + gram.square().sum() - gram.diagonal().square().sum()
        return total / len(z)

    ours = torch.autograd.grad(value, blocks.parameters(), allow_unused=True)
    theirs = torch.autograd.grad(by_definition(), blocks.parameters(), allow_unused=True)
    for a, b in zip(ours, theirs, strict=True):
        if b is None or float(b.abs().max()) == 0:
            continue
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6 * float(b.abs().max()))


def test_scaling_the_output_scales_by_the_fourth_power_and_scale_free_undoes_it(blocks):
    z, probes = randn(6, 4), randn(2, 6, 4, seed=1).sign()
    one = orojar(blocks, z, probes=probes)
    torch.testing.assert_close(orojar(lambda z: 3 * blocks(z), z, probes=probes), 81 * one)
    c = torch.tensor(3.0, dtype=F64, requires_grad=True)
    for options in ({"gradient": "sparse"}, {"gradient": "dense"}, {"reduction": "mean"}):
        free = orojar(lambda z: c * blocks(z), z, probes=probes, scale_free=True, **options)
        torch.testing.assert_close(free, orojar(blocks, z, probes=probes, scale_free=True, **options))
        assert abs(torch.autograd.grad(free, c)[0]) < 1e-10 * free
    s = torch.tensor(2.0, dtype=F64, requires_grad=True)
    free = orojar(lambda z: blocks(z / s), z * s, probes=probes, scale_epsilon=True)
    torch.testing.assert_close(free, orojar(blocks, z, probes=probes, scale_epsilon=True))
    assert abs(torch.autograd.grad(free, s)[0]) < 1e-10 * free


def test_an_additive_rounding_floor_is_no_coupling():
    """Orthogonal columns in float32: what is left is rounding, differently for a batch and for one sample."""
    torch.manual_seed(0)
    G = nn.Linear(64, 512, bias=False)
    with torch.no_grad():
        G.weight.copy_(torch.linalg.qr(G.weight).Q)
    for seed in range(5):
        z = torch.randn(16, 64, generator=torch.Generator().manual_seed(seed)) + 30
        orojar(G, z, gradient="sparse")  # a warning would be an error


def test_one_pass_for_each_probe_and_one_at_z(blocks):
    rows = []
    G = lambda z: rows.append(len(z)) or blocks(z)  # noqa: E731
    orojar(G, randn(5, 4), k=3, reduction="mean")
    rows.clear()
    orojar(G, randn(5, 4), k=3, reduction="mean")
    assert rows == [5] * 4


def test_training_loss_has_the_same_interface(blocks):
    z = randn(5, 4)
    penalty = OroJaR(blocks, adaptive=0.1, adaptive_smoothing=0.0, interval=2, ramp_kimg=10.0)
    images = penalty.generate(z, kimg=5.0)
    main_loss = images.square().mean()
    loss = penalty(z, kimg=5.0, main_loss=main_loss)
    norms = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, blocks.parameters(), retain_graph=True)]).norm()
        for value in (loss, main_loss)
    ]
    assert float(norms[0] / norms[1]) == pytest.approx(0.1 * 0.5 * 2)
    assert penalty(z, kimg=5.0, main_loss=main_loss) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 1}, "`k` must be at least 2"), ({"epsilon": 0.0}, "`epsilon` must be a positive finite step")],
)
def test_helpful_errors(blocks, options, message):
    with pytest.raises(ValueError, match=message):
        orojar(blocks, randn(3, 4), **options)
    with pytest.raises(ValueError, match="output 0 of `G` is not finite"):
        orojar(lambda z: z / 0.0, randn(3, 4))
