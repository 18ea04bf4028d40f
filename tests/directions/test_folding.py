import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from hessian_penalty.directions.folding import generator_along
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator

N = 6


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(rows):
    return torch.linalg.qr(normal(N, N))[0][:rows].contiguous()


def mlp():
    return nn.Sequential(nn.Linear(N, 16), nn.Tanh(), nn.Linear(16, 12), nn.Unflatten(1, (3, 2, 2))).double()


class DCGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.latent_dim = N
        self.main = nn.Sequential(
            nn.ConvTranspose2d(N, 8, 4, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 3, 4, 2, 1)
        )
        self.double().eval()

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng, dtype=torch.float64)

    def forward(self, z):
        return self.main(z.view(len(z), self.latent_dim, 1, 1))


class Conditional(nn.Module):
    """The embedding of a class before the latent, both in one dense layer; noise after it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.layer = nn.Linear(3 + N, 8)
        self.head = nn.Sequential(nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 12))
        self.double()

    def forward(self, z, labels):
        return self.head(self.layer(torch.cat([self.embedding(labels).expand(len(z), -1), z], dim=1)))


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(N, 8), nn.Linear(N, 8)
        self.double()

    def forward(self, z):
        return self.a(z).tanh() * self.b(z)


class HiddenReader(TwoReaders):
    """One layer reads z, and arithmetic that no module does."""

    def forward(self, z):
        return self.a(z).tanh() + z[:, :1].sin()


def progan(**settings):
    """With biases, as after training: without them the norms that follow hide a wrong scale."""
    torch.manual_seed(0)
    G = ProGANGenerator(ProGANConfig(N, (8, 8), **settings))
    torch.nn.init.normal_(G.first_linear.bias)
    return G


def generators():
    labels = {"labels": torch.tensor([2])}
    plain = progan(normalize_latent=False).double()
    return {"mlp": (mlp(), {}), "dcgan": (DCGAN(), {}), "progan": (plain, {}), "conditional": (Conditional(), labels)}


def error_of(new, G, matrix, **conditions):
    w = normal(9, len(matrix), seed=3)
    results = []
    for generator, points in ((new, w), (G, w @ matrix)):
        torch.manual_seed(0)
        with torch.no_grad():
            results.append(generator(points, **conditions))
    return float((results[0] - results[1]).abs().max()) / float(results[1].abs().max())


@pytest.mark.parametrize("rows", [N, 4, 1])
@pytest.mark.parametrize("name", ["mlp", "dcgan", "progan", "conditional"])
def test_the_copy_is_of_the_same_class_and_gives_the_same_images(name, rows):
    G, conditions = generators()[name]
    before = {name: value.clone() for name, value in G.state_dict().items()}
    matrix = orthonormal(rows)
    new = generator_along(G, matrix, conditions)
    assert type(new) is type(G) and list(new.state_dict()) == list(before)
    assert error_of(new, G, matrix, **conditions) < 1e-12
    assert error_of(new, G, torch.eye(N, dtype=torch.float64)[:rows], **conditions) > 1e-3
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


@pytest.mark.parametrize("rows", [N, 4])
def test_a_smaller_progan_can_be_made_anew_from_its_config_and_tensors(rows):
    for normalize in (True, False):
        G = progan(normalize_latent=normalize)
        matrix = orthonormal(rows).float()
        new = generator_along(G, matrix, {})
        assert isinstance(new, ProGANGenerator)
        assert new.latent_dim == new.config.latent_dim == rows and new.sample_latents(2).shape == (2, rows)
        again = ProGANGenerator(new.config)
        again.load_state_dict(new.state_dict())
        w = torch.randn(5, rows)
        assert torch.allclose(again(w), new(w), rtol=0, atol=1e-5)
        assert torch.allclose(again(w), G(w @ matrix), rtol=0, atol=1e-5)


def test_a_normalisation_that_a_smaller_copy_matches_only_almost_is_wrapped():
    """1e-8 is added to another mean square: 1e-9 of the images, much in float64."""
    G, matrix = progan().double(), orthonormal(4)
    new = generator_along(G, matrix, {})
    assert isinstance(new, RotatedGenerator) and error_of(new, G, matrix) < 1e-12
    assert isinstance(generator_along(G, orthonormal(N), {}), ProGANGenerator)


def test_a_layer_that_knows_its_number_of_inputs_is_told():
    assert generator_along(mlp(), orthonormal(4), {})[0].in_features == 4
    assert generator_along(DCGAN(), orthonormal(4), {}).main[0].in_channels == 4
    assert generator_along(Conditional(), orthonormal(4), {"labels": torch.tensor([2])}).layer.in_features == 7


@pytest.mark.parametrize("rows", [N, 4])
@pytest.mark.parametrize("kind", [TwoReaders, HiddenReader])
def test_what_more_than_one_layer_reads_is_wrapped(kind, rows):
    G, matrix = kind(), orthonormal(rows)
    new = generator_along(G, matrix, {})
    assert isinstance(new, RotatedGenerator) and new.generator.function is G
    assert error_of(new, G, matrix) < 1e-12


def test_a_function_is_wrapped():
    inner, matrix = mlp(), orthonormal(4)
    new = generator_along(FunctionGenerator(lambda z: inner(z).sin(), N), matrix, {})
    assert isinstance(new, RotatedGenerator) and new.latent_dim == 4
    assert error_of(new, lambda z: inner(z).sin(), matrix) < 1e-12


def test_an_adapted_module_stays_adapted_and_draws_turned_latents():
    G = FunctionGenerator(mlp(), sample=lambda count, rng: torch.rand(count, N, generator=rng).double())
    matrix = orthonormal(N)
    new = generator_along(G, matrix, {})
    assert isinstance(new, FunctionGenerator) and new.latent_dim == N
    draws = [generator.sample_latents(5, torch.Generator().manual_seed(0)) for generator in (new, G)]
    assert torch.allclose(new(draws[0]), G(draws[1]), rtol=0, atol=1e-12)


def test_a_generator_that_reads_parts_is_wrapped_with_its_conditions():
    class Parts(nn.Module):
        latent_dim = N

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 8), nn.Linear(N - 2, 8)

        def sample_latents(self, count, rng=None):
            return torch.randn(count, N, generator=rng)

        def sample_labels(self, count, rng=None):
            return torch.randint(3, (count,), generator=rng)

        def forward(self, z, labels):
            return self.a(z[:, :2]).tanh() + labels[:, None] * self.b(z[:, 2:])

    assert isinstance(generator_along(Parts(), orthonormal(N), {"labels": "random"}), RotatedGenerator)


@pytest.mark.parametrize(("norm", "folds"), [(weight_norm, True), (spectral_norm, False)])
def test_a_parametrized_weight_is_folded_where_it_can_be(norm, folds):
    G, matrix = mlp(), orthonormal(N)
    norm(G[0])
    G.eval()
    new = generator_along(G, matrix, {})
    assert isinstance(new, nn.Sequential) is folds
    assert error_of(new, G, matrix) < 1e-12


def test_a_class_that_insists_on_its_number_of_latents_is_wrapped():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, z):
            return self.net(z.view(-1, N))

    assert isinstance(generator_along(Fixed(), orthonormal(3), {}), RotatedGenerator)
    assert isinstance(generator_along(Fixed(), orthonormal(N), {}), Fixed)


def test_a_class_that_draws_a_fixed_number_of_latents_is_wrapped():
    class Fixed(DCGAN):
        def sample_latents(self, count, rng=None):
            return torch.randn(count, N, generator=rng, dtype=torch.float64)

    assert isinstance(generator_along(Fixed(), orthonormal(3), {}), RotatedGenerator)


def test_single_precision_rows_in_a_double_generator():
    G = progan().double()
    matrix = orthonormal(N).float()
    new = generator_along(G, matrix, {})
    assert isinstance(new, ProGANGenerator) and error_of(new, G, matrix.double()) < 1e-6


def test_random_numbers_stay_where_they_are():
    G = Conditional()
    state = torch.get_rng_state()
    generator_along(G, orthonormal(N), {"labels": torch.tensor([2])})
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [({"classes": 3}, "`classes` is neither an option"), ({"labels": "random"}, "sample_labels")],
)
def test_refuses_wrong_conditions(conditions, message):
    with pytest.raises(UserError, match=message):
        generator_along(Conditional(), orthonormal(N), conditions)
