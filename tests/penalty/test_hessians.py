"""Whole Hessians against autodiff, and the measures made from them against whole Hessians."""

import pytest
import torch

from hessian_penalty.penalty import (
    hessian_energy,
    hessian_entries,
    hessian_penalty,
    hessians,
    mean_absolute_hessian,
)
from hessian_penalty.penalty.hessians import basis_rows

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def autodiff_hessians(G, z):
    """(batch, n, n, *output)."""
    H = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(lambda row: G(row[None])[0])))(z)
    return H.movedim((-2, -1), (1, 2))


def test_hessians_agree_with_autodiff(blocks):
    z = randn(3, 4)
    expected = autodiff_hessians(blocks, z)
    assert expected.abs().max() > 0.1
    # truncation is of order epsilon^2 = 1e-6 times fourth derivatives (below 1e3), rounding 1e-15 / epsilon^2 = 1e-9
    torch.testing.assert_close(hessians(blocks, z, epsilon=1e-3), expected, rtol=0, atol=1e-3)
    error = [(hessians(blocks, z, epsilon=e) - expected).abs().max() for e in (2e-3, 1e-3)]
    assert 3.5 < error[0] / error[1] < 4.5  # second order


def test_image_outputs_keep_their_shape():
    z = randn(2, 3)
    H = hessians(lambda z: (z[:, :1] * z[:, 1:2]).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 5), z)
    assert H.shape == (2, 3, 3, 3, 4, 5)
    torch.testing.assert_close(H[:, 0, 1], torch.ones(2, 3, 4, 5, dtype=F64), rtol=0, atol=1e-9)


def test_basis_rotates_the_hessian(quadratic):
    G, H = quadratic(5, elements=3)
    basis = torch.linalg.qr(randn(5, 5, seed=1)).Q[:4]
    expected = torch.einsum("ai,pij,bj->abp", basis, H, basis)
    measured = hessians(G, randn(2, 5), basis=basis)
    torch.testing.assert_close(measured, expected.expand(2, -1, -1, -1), rtol=0, atol=1e-10)


def test_basis_at_finite_epsilon_is_the_rotated_generator(blocks):
    basis = torch.linalg.qr(randn(4, 4, seed=1)).Q
    w = randn(3, 4)
    rotated = hessians(lambda w: blocks(w @ basis), w, epsilon=0.3)
    torch.testing.assert_close(hessians(blocks, w @ basis, basis=basis, epsilon=0.3), rotated, rtol=0, atol=1e-12)


def test_two_latents_give_the_penalty_at_any_epsilon_and_with_kinks():
    G = lambda z: torch.relu(z @ randn(2, 7, seed=2)).sin()  # noqa: E731
    z = randn(40, 2)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 40, 2)
    exact = hessian_penalty(G, z, epsilon=0.4, probes=probes, reduction="none") / 2  # two signs: (m - 1) / m = 1 / 2
    torch.testing.assert_close(2 * hessians(G, z, epsilon=0.4)[:, 0, 1] ** 2, exact, rtol=1e-9, atol=1e-12)


def test_energy_sums_to_the_expected_penalty(quadratic, rng):
    G, H = quadratic(4, elements=3)
    energy = hessian_energy(G, randn(2, 4))
    torch.testing.assert_close(energy, H.square().mean(dim=0), rtol=0, atol=1e-9)
    off_diagonal = (energy.sum() - energy.trace()).item()
    draws = hessian_penalty(G, torch.zeros(20_000, 4, dtype=F64), reduction="none", rng=rng).mean(dim=1)
    z_score = (draws.mean().item() - off_diagonal) / (draws.std().item() / len(draws) ** 0.5)
    assert abs(z_score) < 4


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 24, 31, 1000])
def test_measures_agree_with_whole_hessians_for_every_chunk_size(blocks, chunk_size):
    z = randn(3, 4)
    H = hessians(blocks, z)
    torch.testing.assert_close(hessians(blocks, z, chunk_size=chunk_size), H, rtol=0, atol=1e-11)
    options = {"chunk_size": chunk_size}
    torch.testing.assert_close(hessian_energy(blocks, z, **options), H.square().mean(dim=(0, 3)), rtol=1e-9, atol=0)
    torch.testing.assert_close(mean_absolute_hessian(blocks, z, **options), H.abs().mean(dim=(0, 3)), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("chunk_size", "most"), [(None, 3), (24, 24), (50, 48)])
def test_each_pair_is_evaluated_once_in_full_chunks(chunk_size, most):
    rows = []

    def G(z):
        rows.append(len(z))
        return z

    hessian_energy(G, randn(3, 5), chunk_size=chunk_size)
    assert sum(rows) == 3 * (1 + 2 * 5 + 4 * 10)
    assert max(rows) == most


def test_entries_come_without_graph_and_leave_the_grad_mode_alone(blocks):
    for entry in hessian_entries(blocks, randn(2, 4)):
        assert torch.is_grad_enabled()
        assert entry.j >= entry.i and not entry.values.requires_grad


def test_conditions_follow_the_samples():
    labels = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    H = hessians(lambda z, labels: labels * z.prod(dim=1), randn(3, 2), chunk_size=12, labels=labels)
    torch.testing.assert_close(H[:, 0, 1], labels, rtol=0, atol=1e-9)


def test_one_latent_has_no_pair():
    torch.testing.assert_close(hessian_energy(lambda z: z**2, randn(3, 1)), torch.tensor([[4.0]], dtype=F64))


def test_helpful_errors():
    z = randn(2, 3)
    with pytest.raises(ValueError, match=r"`basis` must hold one direction a row, \(count, 3\)"):
        basis_rows(z, randn(2, 4))
    with pytest.raises(ValueError, match=r"`z` must have the shape \(batch, latent\) for a Hessian, got \(2, 3, 1\)"):
        basis_rows(z[..., None], None)
    with pytest.raises(ValueError, match="`epsilon` must be a positive finite step"):
        hessian_energy(lambda z: z, z, epsilon=0.0)
    with pytest.raises(ValueError, match=r"`chunk_size` .* must be at least 1, got 0"):
        hessian_entries(lambda z: z, z, chunk_size=0)
    with pytest.raises(TypeError, match="`G` must return one tensor for a Hessian, got 2"):
        hessians(lambda z: [z, z], z)
    with pytest.raises(ValueError, match="output 0 of `G` is not finite"):
        hessians(lambda z: z / 0, z)
    with pytest.raises(TypeError, match="`label` is neither"):
        hessians(lambda z: z, z, label=3)
