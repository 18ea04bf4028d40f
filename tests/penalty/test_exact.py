"""The exact penalties against closed forms, each other and the average of the estimator."""

import re

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import enumerated_penalty, hessian_penalty, hessians, pairwise_penalty

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def off_diagonal_squares(H):
    """(..., n, n) -> (...)."""
    return H.square().sum(dim=(-2, -1)) - H.diagonal(dim1=-2, dim2=-1).square().sum(dim=-1)


EXACT = [
    enumerated_penalty,
    pairwise_penalty,
    lambda G, z, **options: pairwise_penalty(G, z, method="autodiff", **options),
]
by_each = pytest.mark.parametrize("exact", EXACT, ids=["enumerated", "pairwise", "autodiff"])


@by_each
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_quadratic_has_its_closed_form(exact, n, quadratic):
    """|G| is below 100, |H| below 10 and n below 7.

    Rounding is 1e-16 * 100 / epsilon^2 = 1e-12 in a second difference x; in the square of an entry 2 * 10 times that,
    below 1e-10 in the sum over 30 of them, and in a variance of x, |x| < 7 * 7 * 10, below 2 * 490 * 1e-12 = 1e-9.
    """
    G, H = quadratic(n, 3)
    expected = off_diagonal_squares(H).expand(2, 3)
    assert n == 1 or expected.min() > 1e-2
    torch.testing.assert_close(exact(G, randn(2, n)), expected, rtol=0, atol=1e-9)


def test_autodiff_of_a_quadratic_has_rounding_errors_only(quadratic):
    """Sums of a few dozen products of magnitude 100 or less, at 1e-16 each."""
    G, H = quadratic(5, 3)
    expected = off_diagonal_squares(H).expand(2, 3)
    torch.testing.assert_close(pairwise_penalty(G, randn(2, 5), method="autodiff"), expected, rtol=1e-13, atol=1e-12)


@by_each
@pytest.mark.parametrize("epsilon", [0.05, 0.8])
def test_cubic_has_no_error_at_any_epsilon(exact, epsilon):
    """Odd orders cancel in both second differences: for z0^2 z1 + 5 z1 z2^2, H_01 = 2 z0 and H_12 = 10 z2."""
    z = randn(4, 3)
    penalty = exact(lambda z: z[:, 0] ** 2 * z[:, 1] + 5 * z[:, 1] * z[:, 2] ** 2, z, epsilon=epsilon)
    torch.testing.assert_close(penalty, 8 * z[:, 0] ** 2 + 200 * z[:, 2] ** 2, rtol=1e-9, atol=1e-9)


def test_product_of_three_latents_by_hand():
    """v^T H v = 2 (v0 v1 z2 + v0 v2 z1 + v1 v2 z0), whose terms are uncorrelated: L_H = 2 (z0^2 + z1^2 + z2^2)."""
    z = torch.tensor([[1.0, 2.0, 3.0]], dtype=F64)
    for exact in EXACT:
        assert exact(lambda z: z.prod(dim=1), z).item() == pytest.approx(28.0, rel=1e-10)


def test_sum_of_functions_of_one_latent_gives_zero():
    G = lambda z: (z.sin() + z**3).sum(dim=1)  # noqa: E731
    for exact in EXACT:
        assert exact(G, randn(3, 4)).max() < 1e-20  # (1e-16 * 10 / epsilon^2)^2


def test_enumeration_is_the_average_of_the_estimator(blocks, rng):
    """At a step at which the truncation error is far larger than the standard error of the average."""
    z = randn(1, 4)
    exact = enumerated_penalty(blocks, z, epsilon=0.7)
    assert (exact - pairwise_penalty(blocks, z, method="autodiff")).abs().max() > 0.1 * exact.max()
    draws = hessian_penalty(blocks, z.expand(20_000, -1), epsilon=0.7, reduction="none", rng=rng)
    standard_error = draws.std(dim=0) / len(draws) ** 0.5
    z_scores = (draws.mean(dim=0) - exact[0]) / standard_error
    assert (standard_error < 0.03 * exact[0]).all()
    assert z_scores.abs().max() < 4


def test_enumeration_is_the_mean_over_all_pairs_of_probes(blocks):
    """k = 2 estimates, averaged over all ordered pairs of 4 sign vectors: no sampling error."""
    z = randn(2, 3)
    G = lambda z: blocks(nn.functional.pad(z, (0, 1), value=0.3))  # noqa: E731
    signs = torch.tensor([[1, 1, 1], [1, 1, -1], [1, -1, 1], [1, -1, -1]], dtype=F64)
    estimates = [
        hessian_penalty(G, z, epsilon=0.5, reduction="none", probes=torch.stack((a, b))[:, None].expand(2, 2, 3))
        for a in signs
        for b in signs
    ]
    average = torch.stack(estimates).mean(dim=0)
    torch.testing.assert_close(enumerated_penalty(G, z, epsilon=0.5), average, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("exact", [enumerated_penalty, pairwise_penalty], ids=["enumerated", "pairwise"])
def test_differences_approach_autodiff_as_epsilon_squared(exact, blocks):
    z = randn(3, 4)
    limit = pairwise_penalty(blocks, z, method="autodiff")
    assert limit.max() > 0.1
    wide, narrow = ((exact(blocks, z, epsilon=e) - limit).abs().max().item() for e in (4e-3, 2e-3))
    assert wide < 1e-2 * limit.max()
    assert 3.8 < wide / narrow < 4.2  # the next order is epsilon^4, 1e-5 of this one times a ratio of derivatives


def test_two_latents_give_the_same_at_any_epsilon_and_with_kinks():
    G = lambda z: torch.relu(z @ randn(2, 7, seed=2)).sin()  # noqa: E731
    z = randn(40, 2)
    enumerated, pairwise = (exact(G, z, epsilon=0.4) for exact in EXACT[:2])
    assert enumerated.max() > 0.1
    torch.testing.assert_close(enumerated, pairwise, rtol=1e-9, atol=1e-12)


def test_relu_network_bends_for_differences_and_not_for_autodiff():
    """Piecewise linear: the curvature sits in kinks, which are within 2 epsilon of a point or are not seen at all."""
    torch.manual_seed(0)
    G = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)).double()
    z = randn(50, 3)
    assert pairwise_penalty(G, z, method="autodiff").eq(0).all()
    for exact in EXACT[:2]:
        wide, narrow = exact(G, z, epsilon=0.1), exact(G, z, epsilon=0.025)
        assert wide.mean() > 0.01 and narrow.mean() > 0.01
        # A point within reach of a kink has a second difference of order 1 / epsilon, and there are in proportion to
        # epsilon of them: the mean of squares grows as 1 / epsilon, by 4 here.
        assert narrow.mean() > 2 * wide.mean()
        assert (narrow < 1e-18).double().mean() > (wide < 1e-18).double().mean()  # linear within reach


def test_kink_gives_its_closed_form():
    """|z0 + z1| at 0: v = (1, 1) gives 4 eps, v = (1, -1) gives 0; var of {4/eps, 0} is 4/eps^2, half is 2/eps^2."""
    z = torch.zeros(1, 2, dtype=F64)
    for exact in EXACT[:2]:
        penalty = exact(lambda z: (z[:, 0] + z[:, 1]).abs(), z, epsilon=0.5)
        torch.testing.assert_close(penalty, torch.tensor([2 / 0.25], dtype=F64))


@by_each
def test_image_outputs_keep_their_shape(exact):
    images = lambda z: (z[:, 0] * z[:, 1]).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 5)  # noqa: E731
    torch.testing.assert_close(exact(images, randn(2, 3)), torch.full((2, 3, 4, 5), 2.0, dtype=F64))


@by_each
def test_samples_do_not_depend_on_their_batch(exact, blocks):
    z = randn(5, 4)
    alone = torch.cat([exact(blocks, row[None]) for row in z])
    torch.testing.assert_close(exact(blocks, z), alone, rtol=1e-9, atol=1e-12)


@by_each
@pytest.mark.parametrize("chunk_size", [1, 7, 12, 30, 1000])
def test_chunk_size_does_not_change_the_value_and_bounds_a_pass(exact, chunk_size, blocks):
    z = randn(3, 4)
    rows = []

    def G(z):
        rows.append(len(z))
        return blocks(z)

    whole = exact(G, z)
    assert set(rows) == {3}
    rows.clear()
    torch.testing.assert_close(exact(G, z, chunk_size=chunk_size), whole, rtol=1e-9, atol=1e-12)
    assert max(rows) <= max(3, chunk_size)
    assert chunk_size < 30 or max(rows) > 3


def test_each_sign_vector_is_evaluated_once_with_its_opposite():
    seen = []

    def G(z):
        seen.extend(map(tuple, z.tolist()))
        return z

    enumerated_penalty(G, torch.zeros(1, 4, dtype=F64), epsilon=1.0, chunk_size=6)
    assert len(seen) == len(set(seen)) == 16 and all(abs(v) == 1 for row in seen for v in row)


def test_a_large_constant_does_not_drown_the_differences(quadratic):
    """In float32 sums of squares of 1e3 would lose differences of 0.01, squared, altogether."""
    G, H = quadratic(4, 2)
    offset = enumerated_penalty(lambda z: (G(z.double()) + 1000).float(), torch.zeros(1, 4), epsilon=1.0)
    torch.testing.assert_close(offset[0].double(), off_diagonal_squares(H), rtol=1e-3, atol=0)


@pytest.mark.parametrize("method", ["differences", "autodiff"])
def test_basis_takes_the_entries_along_it(method, quadratic):
    G, H = quadratic(5, 3)
    basis = torch.linalg.qr(randn(5, 5, seed=1)).Q[:3]
    expected = off_diagonal_squares(basis @ H @ basis.T).expand(2, 3)
    torch.testing.assert_close(pairwise_penalty(G, randn(2, 5), basis=basis, method=method), expected)


@by_each
def test_conditions_follow_the_samples(exact):
    labels = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    penalty = exact(lambda z, labels: labels * z.prod(dim=1), randn(3, 2), chunk_size=24, labels=labels)
    torch.testing.assert_close(penalty, 2 * labels**2)


@by_each
def test_no_graph_is_kept(exact, blocks):
    assert not exact(blocks, randn(2, 4)).requires_grad
    assert torch.is_grad_enabled()


def test_pairwise_agrees_with_whole_hessians(blocks):
    z = randn(2, 4)
    expected = off_diagonal_squares(hessians(blocks, z, epsilon=0.3).movedim((1, 2), (-2, -1)))
    torch.testing.assert_close(pairwise_penalty(blocks, z, epsilon=0.3), expected)


@by_each
def test_helpful_errors(exact):
    z = randn(2, 3)
    with pytest.raises(ValueError, match="`epsilon` must be a positive finite step, got 0.0"):
        exact(lambda z: z, z, epsilon=0.0)
    with pytest.raises(ValueError, match=r"`chunk_size` .* must be at least 1, got 0"):
        exact(lambda z: z, z, chunk_size=0)
    with pytest.raises(TypeError, match="`z` must be float32 or float64"):
        exact(lambda z: z, z.half())
    with pytest.raises(TypeError, match="`G` must return one tensor for a Hessian, got 2"):
        exact(lambda z: [z, z], z)
    with pytest.raises(ValueError, match="output 0 of `G` is not finite"):
        exact(lambda z: z / 0, z)
    with pytest.raises(TypeError, match="`label` is neither"):
        exact(lambda z: z, z, label=3)


def test_too_many_latents_are_refused_before_anything_runs():
    message = (
        "`z` must have at most 14 latents to enumerate their signs, got 20, which would take 1,048,576 evaluations of "
        "`G`; use `pairwise_penalty`, which takes 801."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        enumerated_penalty(lambda z: pytest.fail("evaluated"), torch.zeros(1, 20))
    assert enumerated_penalty(lambda z: z[:, 0] * z[:, 13], torch.zeros(1, 14), chunk_size=4096).item() == (
        pytest.approx(2.0, rel=1e-4)
    )
    with pytest.raises(ValueError, match="`method` must be one of 'differences', 'autodiff', got 'exact'"):
        pairwise_penalty(lambda z: z, torch.zeros(1, 2), method="exact")
