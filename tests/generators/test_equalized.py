import math

import pytest
import torch
import torch.nn.functional as F

from hessian_penalty.generators.equalized import EqualizedConv2d, EqualizedDownConv2d, EqualizedUpConv2d

LAYERS = [EqualizedUpConv2d, EqualizedDownConv2d]


def made(kind, in_channels=3, out_channels=5):
    """A layer in float64 with a bias that is not 0."""
    torch.manual_seed(0)
    layer = kind(in_channels, out_channels).double()
    torch.nn.init.normal_(layer.bias)
    return layer


def two_steps(layer, x):
    """The definition, from the parameters alone."""
    weight = layer.weight * (math.sqrt(2) / math.sqrt(9 * layer.weight.shape[1]))
    if isinstance(layer, EqualizedUpConv2d):
        doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return F.conv2d(F.pad(doubled, (1, 1, 1, 1)), weight, layer.bias)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1)), weight, layer.bias)
    height, width = y.shape[2] // 2 * 2, y.shape[3] // 2 * 2
    y = y[:, :, :height, :width]
    return (y[:, :, ::2, ::2] + y[:, :, 1::2, ::2] + y[:, :, ::2, 1::2] + y[:, :, 1::2, 1::2]) / 4


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels"])
@pytest.mark.parametrize("size", [(2, 2), (4, 4), (7, 5), (2, 9), (8, 3)])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_its_two_steps_with_all_borders(kind, size, memory_format):
    layer = made(kind).to(memory_format=memory_format)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=memory_format)
    expected = two_steps(layer, x)
    found = layer(x)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)


def test_a_single_pixel_is_doubled():
    layer = made(EqualizedUpConv2d)
    x = torch.randn(2, 3, 1, 1, dtype=torch.float64)
    assert torch.allclose(layer(x), two_steps(layer, x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_input_weight_and_bias_are_those_of_the_two_steps(kind):
    layer = made(kind)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    expected = two_steps(layer, x)
    direction = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, inputs, direction)
    found = torch.autograd.grad(layer(x), inputs, direction)
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_and_their_gradients_agree_with_differences(kind):
    layer = made(kind, 2, 1)
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)

    def call(x, weight, bias):
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, layer.weight.detach().requires_grad_(), layer.bias.detach().requires_grad_())
    assert torch.autograd.gradcheck(call, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_gradient_penalty_has_the_two_steps_gradient(kind):
    layer = made(kind)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)

    def gradient(of):
        (slope,) = torch.autograd.grad(of.square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), layer.weight)[0]

    wanted = gradient(two_steps(layer, x))
    assert float((gradient(layer(x)) - wanted).norm() / wanted.norm()) < 1e-13


@pytest.mark.parametrize("kind", LAYERS)
def test_parameters_are_those_of_a_plain_convolution(kind):
    torch.manual_seed(3)
    plain = EqualizedConv2d(4, 6, 3, gain=0.7)
    torch.manual_seed(3)
    layer = kind(4, 6, gain=0.7)
    assert layer.scale == plain.scale == pytest.approx(0.7 / 6)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in layer.state_dict().items())
    layer.load_state_dict(plain.state_dict())
    plain.load_state_dict(layer.state_dict())
