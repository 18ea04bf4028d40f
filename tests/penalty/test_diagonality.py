"""The measures of diagonality on generators whose answer is known beforehand."""

import pytest
import torch

from hessian_penalty.penalty import Diagonality, diagonality, hessians, off_diagonal_share

F64 = torch.float64
METHODS = pytest.mark.parametrize("method", ["differences", "autodiff"])


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@METHODS
def test_separable_generator_is_diagonal(method):
    """H = diag(2, 2, 2) everywhere: the mean on the diagonal is 2, off it rounding, far below the 1e-8 added."""
    found = diagonality(lambda z: (z**2).sum(dim=1), randn(5, 3), method=method)
    assert isinstance(found, Diagonality)
    assert found.fraction == 1.0
    assert found.ratio == pytest.approx(2e8, rel=1e-3)


@METHODS
def test_product_is_not(method):
    found = diagonality(lambda z: z[:, 0] * z[:, 1], randn(5, 2), method=method)
    assert found.fraction == 0.0
    assert found.ratio < 1e-12  # the diagonal is rounding, 1e-16 / epsilon^2


@METHODS
def test_mix_by_hand(method):
    """Of three elements with n = 3, at every sample.

    First: H_00 = 6, H_01 = -2, else 0: 6 > 2, (6 / 3) / (2 * 2 / 6) = 3.
    Second: H_22 = -1, H_12 = 4, else 0: 1 < 4, (1 / 3) / (2 * 4 / 6) = 1 / 4.
    Third: H_01 = H_02 = H_12 = 1: 0 < 1, 0.
    """

    def G(z):
        a, b, c = z.unbind(dim=1)
        return torch.stack((3 * a**2 - 2 * a * b, 4 * b * c - c**2 / 2, a * b + a * c + b * c), dim=1)

    found = diagonality(G, randn(4, 3), method=method)
    assert found.fraction == pytest.approx(1 / 3)
    assert found.ratio == pytest.approx((3 + 1 / 4 + 0) / 3, rel=1e-7)


def test_largest_entry_and_means_are_different_questions():
    """One large diagonal entry of three, all others 1: fraction 1; (5 / 3) / 1."""
    G = lambda z: 2.5 * z[:, 0] ** 2 + z[:, 0] * z[:, 1] + z[:, 0] * z[:, 2] + z[:, 1] * z[:, 2]  # noqa: E731
    found = diagonality(G, randn(2, 3), method="autodiff")
    assert found.fraction == 1.0 and found.ratio == pytest.approx(5 / 3, rel=1e-7)


def test_samples_count_like_elements():
    """z0^2 z1 / 2: H_00 = z1, H_01 = z0, so a sample is diagonal where |z1| >= |z0|; ratio |z1| / 2 |z0|."""
    z = torch.tensor([[1.0, 3.0], [2.0, -4.0], [-5.0, 1.0], [4.0, 2.0]], dtype=F64)
    found = diagonality(lambda z: z[:, 0] ** 2 * z[:, 1] / 2, z)
    assert found.fraction == 0.5
    assert found.ratio == pytest.approx((3 / 2 + 4 / 4 + 1 / 10 + 2 / 8) / 4, rel=1e-6)


def test_tie_counts_as_diagonal_and_zeros_have_ratio_zero():
    tie = diagonality(lambda z: (z[:, 0] + z[:, 1]) ** 2, randn(2, 2), method="autodiff")
    assert tie.fraction == 1.0 and tie.ratio == pytest.approx(1.0, rel=1e-7)
    assert diagonality(lambda z: z, randn(2, 2), method="autodiff") == Diagonality(fraction=1.0, ratio=0.0)


@METHODS
def test_agrees_with_whole_hessians(method, blocks):
    z = randn(6, 4)
    H = hessians(blocks, z, method=method).abs().movedim((1, 2), (-2, -1)).flatten(0, 1)  # (samples * elements, 4, 4)
    on = H.diagonal(dim1=1, dim2=2)
    off = H[:, ~torch.eye(4, dtype=torch.bool)]
    found = diagonality(blocks, z, method=method)
    assert found.fraction == pytest.approx((on.amax(dim=1) >= off.amax(dim=1)).double().mean().item())
    assert found.ratio == pytest.approx((on.mean(dim=1) / (off.mean(dim=1) + 1e-8)).mean().item(), rel=1e-9)
    assert 0 < found.fraction < 1


@METHODS
def test_basis_diagonalises(method):
    """z0 z1 along its eigenvectors (1, 1) and (1, -1)."""
    basis = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64) / 2**0.5
    found = diagonality(lambda z: z[:, 0] * z[:, 1], randn(5, 2), basis=basis, method=method)
    assert found.fraction == 1.0 and found.ratio > 1e6


def test_scale_of_the_generator_does_not_matter(blocks):
    z = randn(4, 4)
    one, scaled = diagonality(blocks, z), diagonality(lambda z: 100 * blocks(z), z)
    assert one.fraction == scaled.fraction and one.ratio == pytest.approx(scaled.ratio, rel=1e-4)


@METHODS
@pytest.mark.parametrize("chunk_size", [1, 8, 100])
def test_chunks_batches_and_conditions(method, chunk_size, blocks):
    z, gain = randn(4, 4), torch.arange(1.0, 5.0, dtype=F64)
    rows = []

    def G(z, gain):
        rows.append(len(z))
        return torch.tanh(blocks(z) * gain[:, None])

    whole = diagonality(G, z, method=method, gain=gain)
    rows.clear()
    assert diagonality(G, z, method=method, chunk_size=chunk_size, gain=gain) == pytest.approx(whole, rel=1e-9)
    assert max(rows) <= max(4, chunk_size) and (chunk_size < 100 or max(rows) > 4)
    alone = [diagonality(G, z[i : i + 1], method=method, gain=gain[i : i + 1]) for i in range(4)]
    assert torch.tensor(alone, dtype=F64).mean(dim=0).tolist() == pytest.approx(whole, rel=1e-9)


def test_epsilon_reaches_the_differences():
    """z0^4 + z0 z1 at 0: H_00 = 2 epsilon^2, so the diagonal wins above sqrt(1 / 2)."""
    G = lambda z: z[:, 0] ** 4 + z[:, 0] * z[:, 1]  # noqa: E731
    z = torch.zeros(1, 2, dtype=F64)
    assert [diagonality(G, z, epsilon=e).fraction for e in (0.1, 0.7, 0.71)] == [0.0, 0.0, 1.0]


def test_helpful_errors():
    message = "`diagonality` compares entries on and off the diagonal, so it needs at least 2 directions, got 1; give"
    with pytest.raises(ValueError, match=message):
        diagonality(lambda z: z, randn(2, 1))
    with pytest.raises(ValueError, match=message):
        diagonality(lambda z: z, randn(2, 3), basis=torch.ones(1, 3))
    with pytest.raises(ValueError, match="`method` must be one of 'differences', 'autodiff', got 'fast'"):
        diagonality(lambda z: z, randn(2, 3), method="fast")
    with pytest.raises(TypeError, match="`label` is neither"):
        diagonality(lambda z: z, randn(2, 3), label=3)


def test_share_at_its_ends():
    assert off_diagonal_share(torch.eye(4)) == 0
    assert off_diagonal_share(torch.ones(4, 4) - torch.eye(4)) == 1
    assert off_diagonal_share(torch.zeros(4, 4)) == 0


def test_share_is_free_of_scale():
    energy = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    assert off_diagonal_share(9 * energy) == pytest.approx(off_diagonal_share(energy))
