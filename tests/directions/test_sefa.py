import pytest
import torch
from torch import nn

from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.directions.sefa import SeFaSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.biggan import BigGAN, BigGANConfig
from hessian_penalty.generators.function_generator import FunctionGenerator, as_generator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def search(G, latent_dim=None, subspace=None, **conditions):
    generator = as_generator(G, latent_dim)
    space = Space(generator, subspace_rows(generator, subspace), conditions)
    return SeFaSearch().search(space, rng=torch.Generator().manual_seed(0))


def assert_singular(found, weight):
    """The right singular vectors up to signs, and the squares of the singular values."""
    _, values, vectors = torch.linalg.svd(weight.detach().double(), full_matrices=True)
    squares = torch.zeros(weight.shape[1], dtype=torch.float64)
    squares[: len(values)] = values.square()
    assert torch.allclose(torch.tensor(found.notes["eigenvalues"]).double(), squares, rtol=1e-6, atol=1e-9)
    assert torch.allclose((found.rows * vectors).sum(dim=1).abs(), torch.ones(len(vectors)).double(), atol=1e-9)


def test_it_finds_the_right_singular_vectors():
    G = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    found = search(G, 5)
    assert_singular(found, G[0].weight)
    assert found.notes["layers"] == ["0"] and found.rows.dtype == torch.float64


def test_behind_a_normalisation_and_in_single_precision():
    G = ProGANGenerator(ProGANConfig(6, (16, 8)))
    assert_singular(search(G), G.first_linear.weight * G.first_linear.scale)


def test_for_latents_of_one_pixel():
    layer = nn.ConvTranspose2d(5, 3, 4).double()
    assert_singular(search(lambda z: layer(z[:, :, None, None]), 5), layer.weight.flatten(1).T)


def test_several_layers_are_stacked():
    a, b = nn.Linear(5, 3).double(), nn.Linear(5, 8).double()
    found = search(FunctionGenerator(lambda z: torch.cat([a(z), b(z)], dim=1), sample=lambda n, rng: normal(n, 5)))
    assert_singular(found, torch.cat([a.weight, b.weight]))


def test_a_generator_that_gives_its_weights_is_believed():
    biggan = BigGAN(BigGANConfig(channels=4, classes=10, latent_dim=12))
    weight = biggan.latent_weights().double()
    found = search(biggan, labels="random")
    assert found.notes["layers"] == ["latent_weights"]
    eigenvalues = torch.tensor(found.notes["eigenvalues"]).double()
    assert torch.allclose(found.rows @ weight.T @ weight @ found.rows.T, torch.diag(eigenvalues))
    in_function = search(lambda z: biggan(z, 3), 12)
    assert in_function.notes == {"layers": ["BigGAN"], "eigenvalues": found.notes["eigenvalues"]}


def test_in_a_subspace_directions_stay_in_it():
    G = nn.Sequential(nn.Linear(5, 16)).double()
    rows = torch.linalg.qr(normal(5, 3))[0].T
    found = search(G, 5, subspace=rows)
    _, _, vectors = torch.linalg.svd(G[0].weight.detach() @ rows.T)
    assert torch.allclose(((found.rows @ rows.T) * vectors).sum(dim=1).abs(), torch.ones(3).double())
    assert torch.allclose(found.rows @ rows.T @ rows, found.rows)


def test_fewer_outputs_than_latents_leave_directions_that_nothing_reads():
    G = nn.Sequential(nn.Linear(5, 2)).double()
    found = search(G, 5)
    assert float((found.rows[2:] @ G[0].weight.detach().T).abs().max()) < 1e-7
    assert min(found.notes["eigenvalues"]) >= 0


def test_discover_takes_it_by_activeness():
    layer = nn.Linear(4, 12, bias=False)
    directions = discover(layer, latent_dim=4, method=SeFaSearch())
    assert directions.provenance["method"] == "sefa"
    changes = (directions.matrix @ layer.weight.T).norm(
        dim=1
    )  # of a linear generator: activeness and eigenvalues agree
    assert changes.tolist() == sorted(changes.tolist(), reverse=True)


def test_says_what_to_do_where_no_layer_reads_the_latents():
    layer = nn.Linear(4, 8)
    with pytest.raises(UserError, match=r"no layer of function gets z itself.* give the generator a method"):
        search(lambda z: layer(z.tanh()), 4)
    with pytest.raises(UserError, match="must return a matrix with 12 columns"):
        search(_Wrong(12))


class _Wrong(FunctionGenerator):
    def __init__(self, latent_dim):
        function = nn.Identity()
        function.latent_weights = lambda: torch.zeros(3, 4)
        super().__init__(function, latent_dim)
