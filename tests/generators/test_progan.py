import copy
import math

import pytest
import torch
import torch.nn.functional as F

from hessian_penalty.errors import UserError
from hessian_penalty.generators.equalized import EqualizedConv2d, EqualizedLinear
from hessian_penalty.generators.progan import (
    FIRST_LINEAR_WEIGHT,
    PixelNorm,
    ProGANConfig,
    ProGANGenerator,
    published_channels,
)
from hessian_penalty.generators.progan_critic import ProGANCritic, minibatch_stddev
from hessian_penalty.generators.protocol import Generator

TINY = ProGANConfig(latent_dim=5, channels=(16, 12, 8))


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_shapes_and_protocol():
    generator, critic = ProGANGenerator(TINY), ProGANCritic(TINY)
    images = generator(generator.sample_latents(4))
    assert images.shape == (4, 3, 16, 16)
    assert critic(images).shape == (4,)
    assert isinstance(generator, Generator)
    assert TINY.resolution == 16


def test_published_size():
    """The widths of the ProGAN paper's table, and the Hessian Penalty paper's 13 layers at 128 pixels."""
    assert published_channels(1024) == (512, 512, 512, 512, 256, 128, 64, 32, 16)
    generator = ProGANGenerator(ProGANConfig(channels=published_channels(128)))
    assert len([name for name, module in generator.named_modules() if ".norm" in name]) + 1 == 13


def test_pixel_norm_makes_every_pixel_unit_mean_square():
    normalized = PixelNorm()(5 * torch.randn(2, 8, 3, 3, dtype=torch.float64))
    assert torch.allclose(normalized.square().mean(dim=1), torch.ones(2, 3, 3, dtype=torch.float64), atol=1e-6)


def test_latent_normalization_is_a_switch():
    generator = ProGANGenerator(TINY)
    torch.nn.init.normal_(generator.first_linear.bias)  # at the start all biases are 0, and pixel norm hides the scale
    z = generator.sample_latents(3)
    assert torch.allclose(generator(z), generator(7 * z), atol=1e-4)
    generator.normalize_latent = False
    assert not torch.allclose(generator(z), generator(7 * z), atol=1e-2)


@pytest.mark.parametrize("layer", [EqualizedLinear(64, 4000), EqualizedConv2d(16, 1000, 3)])
def test_equalized_layers_keep_the_signal(layer):
    """Unit-variance weights and inputs: outputs have variance gain² = 2, within 4.5 standard errors or so."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    weight = layer.weight
    assert float(weight.std()) == pytest.approx(1, abs=4.5 / math.sqrt(2 * weight.numel()))
    x = torch.randn(64, 64) if isinstance(layer, EqualizedLinear) else torch.randn(64, 16, 5, 5)
    y = layer(x) if isinstance(layer, EqualizedLinear) else layer(x)[:, :, 1:-1, 1:-1]
    assert float(y.var()) == pytest.approx(2, rel=0.1)


def test_first_block_reads_the_latent_as_a_convolution_over_a_4x4_field():
    generator = ProGANGenerator(TINY)
    weight = generator.state_dict()[FIRST_LINEAR_WEIGHT]
    assert weight.shape == (16 * 16, 5)
    z = generator.sample_latents(2)
    normalized = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
    expected = (normalized @ weight.T * (math.sqrt(2) / 4 / math.sqrt(5))).reshape(2, 16, 4, 4)
    seen = []
    generator.blocks[0].norm0.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    generator(z)
    assert torch.allclose(seen[0], F.leaky_relu(expected, 0.2), atol=1e-6)


def test_samples_of_one_batch_do_not_influence_each_other_in_the_generator():
    generator = ProGANGenerator(TINY).double()
    z = torch.randn(6, 5, dtype=torch.float64)
    assert torch.allclose(generator(z)[2:3], generator(z[2:3]), atol=1e-12)


def test_minibatch_stddev_is_the_mean_deviation_within_each_group():
    x = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    appended = minibatch_stddev(x, 4)
    assert torch.equal(appended[:, :3], x)
    for group in range(2):  # sample i belongs to group i mod 2, as the paper's reshape has it
        expected = (x[group::2].var(dim=0, correction=0) + 1e-8).sqrt().mean()
        assert torch.allclose(appended[group::2, 3], expected.expand(4, 4, 4), atol=1e-12)


def test_minibatch_stddev_of_equal_images_is_nothing():
    assert float(minibatch_stddev(torch.ones(4, 2, 4, 4))[:, 2].max()) < 2e-4


def test_minibatch_stddev_takes_any_batch():
    for count in (1, 3, 6, 7):
        assert minibatch_stddev(torch.randn(count, 2, 4, 4)).shape == (count, 3, 4, 4)


def test_latents_are_standard_normal_and_seeded():
    generator = ProGANGenerator(TINY)
    first, second = (generator.sample_latents(4000, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert float(first.mean().abs()) < 4.5 / math.sqrt(first.numel())
    assert abs(float(first.var()) - 1) < 4.5 * math.sqrt(2 / first.numel())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"latent_dim": 0}, "generator.latent_dim must be at least 1, got 0"),
        ({"channels": ()}, r"generator.channels must name at least one positive width, got \(\)"),
        ({"channels": (8, 0)}, "generator.channels"),
        ({"image_channels": 2}, r"generator.image_channels must be 1 \(grey\) or 3 \(RGB\), got 2"),
    ],
)
def test_config_errors(fields, message):
    with pytest.raises(UserError, match=message):
        ProGANConfig(**fields)
