import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_penalty.directions.joint_diagonalization import joint_diagonalize, off_diagonal_energies
from hessian_penalty.errors import UserError


def random_rotation(n, seed):
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, n, generator=rng, dtype=torch.float64))[0]


def test_leaves_the_maximum_of_a_product():
    """H of z0·z1: toff = 0 and ton < 0, where the ½ form stands still."""
    product = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)
    basis = joint_diagonalize(product)
    assert off_diagonal_energies(product).tolist() == [2]
    assert float(off_diagonal_energies(product, basis)) < 1e-30


@given(n=st.integers(2, 9), count=st.integers(1, 12), seed=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_recovers_the_common_eigenbasis(n, count, seed):
    rotation = random_rotation(n, seed)
    diagonals = torch.randn(count, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrices = rotation.T @ torch.diag_embed(diagonals) @ rotation
    basis = joint_diagonalize(matrices)
    scale = float(matrices.square().sum())
    assert float((basis @ basis.T - torch.eye(n, dtype=torch.float64)).abs().max()) < 1e-12
    assert float(off_diagonal_energies(matrices, basis).sum()) < 1e-18 * scale


def test_no_pair_can_be_turned_to_less_where_matrices_do_not_commute():
    """A stationary point: every plane rotation of the result raises the criterion."""
    x = torch.randn(20, 5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    matrices = x + x.transpose(1, 2)
    basis = joint_diagonalize(matrices)
    best = float(off_diagonal_energies(matrices, basis).mean())
    assert best < float(off_diagonal_energies(matrices).mean())
    for p in range(5):
        for q in range(p + 1, 5):
            for angle in (-0.7, -0.1, -1e-3, 1e-3, 0.1, 0.7):
                turned = basis.clone()
                turned[p] = math.cos(angle) * basis[p] + math.sin(angle) * basis[q]
                turned[q] = math.cos(angle) * basis[q] - math.sin(angle) * basis[p]
                assert float(off_diagonal_energies(matrices, turned).mean()) >= best


def test_energy_is_the_sum_of_squares_off_the_diagonal():
    matrices = torch.tensor([[[5.0, 2.0], [2.0, 7.0]], [[1.0, 0.0], [0.0, 1.0]]])
    assert off_diagonal_energies(matrices).tolist() == [8, 0]


def test_input_is_not_changed():
    matrices = torch.ones(1, 3, 3, dtype=torch.float64)
    joint_diagonalize(matrices)
    assert torch.equal(matrices, torch.ones(1, 3, 3, dtype=torch.float64))


def test_one_latent_stays():
    assert joint_diagonalize(torch.ones(3, 1, 1)).tolist() == [[1.0]]


def test_refuses_nan():
    with pytest.raises(UserError, match="must be finite"):
        joint_diagonalize(torch.full((1, 2, 2), math.nan))
