import pytest
import torch
from torch import nn

from hessian_penalty.directions.method import Space
from hessian_penalty.directions.rotated_generator import RotatedGenerator, generator_of, in_precision_of
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.generators.protocol import Generator


def seeded():
    return torch.Generator().manual_seed(0)


def orthonormal(rows, columns):
    return torch.linalg.qr(torch.randn(columns, rows, generator=seeded(), dtype=torch.float64))[0].T.contiguous()


def test_latents_are_coordinates_along_the_rows():
    G = FunctionGenerator(lambda z: z.sin()[:, :, None, None], 5)
    matrix = orthonormal(3, 5)
    rotated = RotatedGenerator(G, matrix)
    w = torch.randn(7, 3, generator=seeded(), dtype=torch.float64)
    assert isinstance(rotated, Generator) and rotated.latent_dim == 3
    assert torch.equal(rotated(w), G(w @ matrix))


def test_the_same_seed_gives_the_same_images_whatever_the_latents():
    G = FunctionGenerator(lambda z: z**3, sample=lambda count, rng: torch.rand(count, 4, generator=rng).double())
    rotated = RotatedGenerator(G, orthonormal(4, 4))
    images = rotated(rotated.sample_latents(6, seeded()))
    assert torch.allclose(images, G(G.sample_latents(6, seeded())), rtol=0, atol=1e-12)


def test_it_is_a_module_that_holds_generator_and_matrix():
    G = ProGANGenerator(ProGANConfig(4, (8, 8)))
    names = set(RotatedGenerator(G, torch.eye(4)).state_dict())
    assert "matrix" in names and "generator.to_image.weight" in names
    layer = nn.Linear(4, 3)
    rotated = RotatedGenerator(layer, torch.eye(4)).double()
    assert layer.weight.dtype == torch.float64 and "matrix" in dict(rotated.named_buffers())
    assert rotated(torch.zeros(1, 4, dtype=torch.float64)).shape == (1, 3)


def test_conditions_are_passed_and_drawn():
    class Labelled(nn.Module):
        latent_dim = 4

        def sample_latents(self, count, rng=None):
            return torch.randn(count, 4, generator=rng)

        def sample_labels(self, count, rng=None):
            return torch.randint(10, (count,), generator=rng)

        def forward(self, z, labels):
            return z * labels

    rotated = RotatedGenerator(Labelled(), orthonormal(4, 4))
    _, conditions = Space(rotated, torch.eye(4).double(), {"labels": "random"}).sample(50, seeded())
    assert int(conditions["labels"].max()) > 5
    w = rotated.sample_latents(2, seeded())
    assert torch.equal(rotated(w, labels=3), 3 * (w @ rotated.matrix.to(w)))
    with pytest.raises(AttributeError, match="sample_masks"):
        _ = rotated.sample_masks
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = rotated.nothing


def test_a_wrapper_can_be_wrapped():
    first, second = orthonormal(3, 5), orthonormal(2, 3)
    G = FunctionGenerator(torch.exp, 5)
    twice = RotatedGenerator(RotatedGenerator(G, first), second)
    w = torch.randn(4, 2, dtype=torch.float64)
    assert torch.allclose(twice(w), torch.exp(w @ second @ first), rtol=1e-12)


def test_refuses_directions_of_another_generator():
    with pytest.raises(UserError, match="must have 4 components like the generator's latents, got 5"):
        generator_of(ProGANGenerator(ProGANConfig(4, (8, 8))), torch.eye(5))


def test_precision_is_that_of_parameters_where_there_are_any():
    z = torch.zeros(1, 4)
    assert in_precision_of(FunctionGenerator(nn.Linear(4, 3).double(), 4), z).dtype == torch.float64
    assert in_precision_of(torch.sin, z).dtype == torch.float32
