from itertools import pairwise

import pytest
import torch
from torch import nn

from hessian_penalty.directions.first_layers import latent_layers
from hessian_penalty.errors import UserError
from hessian_penalty.generators.equalized import EqualizedConv2d
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator


def latents(count, dim, dtype=torch.float64):
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=dtype)


def dense(*widths):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths))).double()


def described(layers):
    return [(layer.name, layer.start, layer.scaled) for layer in layers]


def response(layer, z):
    """What a linear layer makes of the latent part of its input, by its own forward pass."""
    module = layer.module
    inputs = torch.zeros(len(z), module.weight.shape[layer.axis], dtype=z.dtype)
    bias = inputs.clone()
    inputs[:, layer.start : layer.start + z.shape[1]] = z
    shape = (-1, inputs.shape[1], *[1] * (module.weight.ndim - 2))
    return (module(inputs.view(shape)) - module(bias.view(shape))).flatten(1)


class Reshaped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer.double()

    def forward(self, z):
        return self.layer(z[:, :, None, None])


class Conditional(nn.Module):
    """The embedding of a class in front of the latent."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.layer = nn.Linear(7, 12)
        self.double()

    def forward(self, z, labels):
        return self.layer(torch.cat([self.embedding(labels), z], dim=1))


@pytest.mark.parametrize(
    "layer",
    [nn.ConvTranspose2d(4, 3, 4), nn.ConvTranspose2d(4, 4, 2), nn.Conv2d(4, 6, 1), EqualizedConv2d(4, 5, 1)],
    ids=["transposed", "square", "convolution", "equalized"],
)
def test_a_latent_of_one_pixel_is_found(layer):
    z = latents(3, 4)
    (found,) = latent_layers(Reshaped(layer), z)
    assert described([found]) == [("layer", 0, False)]
    if not isinstance(layer, EqualizedConv2d):  # its scale at run time is not in the weight
        by_kernel = response(found, z).unflatten(1, (layer.out_channels, -1))
        expected = (z @ found.weight.T).unflatten(1, (layer.out_channels, -1))
        assert torch.allclose(by_kernel, expected, rtol=0, atol=1e-12)


def test_the_first_of_several_dense_layers_of_one_width_is_found():
    z, G = latents(3, 4), dense(4, 4, 4)
    (found,) = latent_layers(G, z)
    assert found.name == "0" and torch.equal(found.weight, G[0].weight)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_normalised_latent_is_told_from_the_latent(normalize):
    G = ProGANGenerator(ProGANConfig(6, (16, 8), normalize_latent=normalize)).double()
    z = latents(3, 6)
    (found,) = latent_layers(G, z)
    assert described([found]) == [("blocks.0.dense", 0, normalize)]
    assert torch.allclose(response(found, z), z @ found.weight.T, rtol=0, atol=1e-12)
    expected = (z.square().mean(dim=1) + 1e-8).rsqrt() if normalize else torch.ones(3).double()
    assert torch.allclose(found.factors, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bent_latent_is_no_latent(dtype):
    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 8, dtype=dtype)

        def forward(self, z):
            return self.layer(z + 1e-4 * z**3)

    assert latent_layers(Bent(), latents(3, 4, dtype)) == []


def test_a_mirrored_latent_is_no_latent():
    layer = nn.Linear(4, 8).double()
    assert latent_layers(lambda z: layer(-z), latents(3, 4)) == []


def test_beside_other_features_the_columns_of_the_latent_are_found():
    G, z = Conditional(), latents(3, 4)
    (found,) = latent_layers(G, z, labels=torch.tensor([0, 4, 1]))
    assert described([found]) == [("layer", 3, False)]
    assert torch.equal(found.weight, G.layer.weight[:, 3:])


def test_all_readers_are_found_in_the_order_in_which_they_run():
    a, b = nn.Linear(4, 6).double(), nn.Linear(4, 5).double()
    layers = latent_layers(lambda z: torch.cat([b(z), a(z), b(z)], dim=1), latents(3, 4))
    assert [layer.module for layer in layers] == [b, a]
    assert [layer.name for layer in layers] == ["Linear", "Linear"]


def test_names_in_a_function_begin_with_the_class():
    inner = dense(4, 8, 3)
    layers = latent_layers(FunctionGenerator(lambda z: inner(z), 4), latents(3, 4))
    assert [layer.name for layer in layers] == ["Sequential.0"]
    assert [layer.name for layer in latent_layers(FunctionGenerator(inner, 4), latents(3, 4))] == ["0"]


def test_what_reads_a_part_or_many_pixels_or_groups_is_not_found():
    part, wide, grouped = nn.Linear(2, 8).double(), nn.Conv2d(4, 3, 1).double(), nn.Conv2d(4, 4, 1, groups=2).double()

    def G(z):
        pixels = z[:, :, None, None]
        return part(z[:, :2]).sum() + wide(pixels.expand(-1, -1, 2, 2)).flatten(1) + grouped(pixels).sum()

    assert latent_layers(G, latents(3, 4)) == []


def test_a_pass_leaves_no_trace():
    G = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout()).double()
    z, state = latents(3, 4), torch.get_rng_state()
    before = {name: value.clone() for name, value in G.state_dict().items()}
    latent_layers(G, z)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())
    assert not any(module._forward_pre_hooks for module in G.modules())


class Claiming(nn.Module):
    def __init__(self, weights):
        super().__init__()
        self.weights = weights

    def latent_weights(self):
        return self.weights

    def forward(self, z):
        return z


def test_a_module_that_gives_its_weights_itself_stands_for_what_is_in_it():
    inner = Claiming(torch.ones(5, 4))
    inner.layer = nn.Linear(4, 4)
    inner.forward = lambda z: inner.layer(z)
    (found,) = latent_layers(lambda z: inner(z).sin(), latents(2, 4, torch.float32))
    assert found.module is inner and found.axis is None and torch.equal(found.weight, inner.weights)
    assert latent_layers(lambda z: inner(z.sin()), latents(2, 4, torch.float32)) == []


@pytest.mark.parametrize(("weights", "came"), [(torch.zeros(5, 3), r"\(5, 3\)"), ("none", "str")])
def test_refuses_weights_of_another_shape(weights, came):
    with pytest.raises(UserError, match=rf"`latent_weights\(\)` of Claiming must return .* 4 columns.* got {came}"):
        latent_layers(Claiming(weights), latents(2, 4))


def test_what_a_pass_cannot_do_is_said():
    with pytest.raises(UserError, match="`z` is torch.float32 and `G` has parameters of torch.float64"):
        latent_layers(dense(4, 8), latents(3, 4, torch.float32))
