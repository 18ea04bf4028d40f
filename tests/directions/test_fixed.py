import pytest
import torch

from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.fixed import Coordinates, RandomBasis
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.generators.function_generator import FunctionGenerator


def G(z):
    return (z * torch.arange(1.0, 6.0))[:, :, None, None]


def space_of(subspace=None):
    generator = FunctionGenerator(G, 5)
    return Space(generator, subspace_rows(generator, subspace))


def rows_of(method, space, seed=0):
    return method.search(space, rng=torch.Generator().manual_seed(seed)).rows


@pytest.mark.parametrize("subspace", [None, [3, 1]])
def test_coordinates_are_the_rows_of_the_space_and_draw_nothing(subspace):
    space, rng = space_of(subspace), torch.Generator().manual_seed(3)
    before = rng.get_state()
    assert torch.equal(Coordinates().search(space, rng=rng).rows, space.rows)
    assert torch.equal(rng.get_state(), before)


def test_coordinates_come_out_by_activeness():
    assert discover(G, latent_dim=5, method=Coordinates()).matrix.argmax(dim=1).tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("subspace", [None, [3, 1], torch.tensor([[1.0, 2, 0, 0, 1], [0.0, 1, 1, 0, 0]])])
def test_a_random_basis_spans_the_space(subspace):
    space = space_of(subspace)
    found = rows_of(RandomBasis(), space)
    assert torch.allclose(found @ found.T, torch.eye(space.dim, dtype=torch.float64), rtol=0, atol=1e-6)
    assert torch.allclose(found.T @ found, space.rows.T @ space.rows, rtol=0, atol=1e-6)  # the same projection
    assert found.dtype == torch.float64


def test_a_random_basis_is_that_of_its_seed():
    space = space_of()
    assert torch.equal(rows_of(RandomBasis(), space, 1), rows_of(RandomBasis(), space, 1))
    assert float((rows_of(RandomBasis(), space, 1) - rows_of(RandomBasis(), space, 2)).abs().max()) > 0.1


def test_random_signs_are_not_those_of_the_decomposition():
    """Under Haar measure each entry has mean 0: a z-score over 400 draws, each of variance 1/5."""
    space = space_of()
    mean = torch.stack([rows_of(RandomBasis(), space, seed) for seed in range(400)]).mean(dim=0)
    assert float(mean.abs().max()) * (5 * 400) ** 0.5 < 4.5
