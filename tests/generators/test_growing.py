"""Grown and ungrown networks agree where they must: at whole levels of detail and between them."""

import copy

import pytest
import torch
import torch.nn.functional as F

from hessian_penalty.generators.loading import load_module, save_module
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.generators.progan_critic import ProGANCritic

WIDTHS = (8, 6, 5, 4)  # 4 to 32 pixels
GROWS = ProGANConfig(latent_dim=5, channels=WIDTHS, grows=True)


def randomized(network):
    """Biases too: at 0 they would hide a wrong layer."""
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    return network.double().requires_grad_(False)


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return randomized(ProGANGenerator(GROWS))


@pytest.fixture
def critic():
    torch.manual_seed(1)
    return randomized(ProGANCritic(GROWS))


def z(count=4):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def images(resolution, count=4):
    shape = (count, 3, resolution, resolution)
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def generator_ending_at(generator, level):
    """The ordinary generator whose last level is `level`, with the grown one's weights."""
    widths = WIDTHS[: len(WIDTHS) - level]
    small = ProGANGenerator(ProGANConfig(latent_dim=5, channels=widths)).double()
    small.blocks = copy.deepcopy(generator.blocks[: len(widths)])
    small.to_image = copy.deepcopy(generator.to_lower_images[level - 1] if level else generator.to_image)
    return small


def critic_beginning_at(critic, level):
    small = ProGANCritic(ProGANConfig(channels=WIDTHS[: len(WIDTHS) - level])).double()
    small.blocks = copy.deepcopy(critic.blocks[level:])
    small.from_image = copy.deepcopy(critic.from_lower_images[level - 1] if level else critic.from_image)
    small.conv, small.dense, small.score = map(copy.deepcopy, (critic.conv, critic.dense, critic.score))
    return small


@pytest.mark.parametrize("level", range(4))
def test_a_generator_at_a_whole_level_is_the_ordinary_one_that_ends_there(generator, level):
    generator.lod = float(level)
    found = generator(z())
    assert found.shape[-1] == 32 >> level
    assert torch.equal(found, generator_ending_at(generator, level)(z()))


@pytest.mark.parametrize("level", range(4))
def test_a_critic_at_a_whole_level_is_the_ordinary_one_that_begins_there(critic, level):
    critic.lod = float(level)
    x = images(32 >> level)
    assert torch.equal(critic(x), critic_beginning_at(critic, level)(x))


@pytest.mark.parametrize("lod", [0.25, 1.5, 2.875])
def test_between_levels_images_are_mixed_with_the_doubled_ones_of_the_level_below(generator, lod):
    level = int(lod)
    upper = generator_ending_at(generator, level)(z())
    lower = generator_ending_at(generator, level + 1)(z())
    doubled = lower.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    generator.lod = lod
    expected = (1 - (lod - level)) * upper + (lod - level) * doubled
    assert torch.allclose(generator(z()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lod", [0.25, 1.5, 2.875])
def test_between_levels_features_are_mixed_with_those_of_the_halved_image(critic, lod):
    level = int(lod)
    x = images(32 >> level)
    halved = x.reshape(4, 3, x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean(dim=(3, 5))
    from_image = [critic.from_image, *critic.from_lower_images]
    upper = critic.blocks[level](F.leaky_relu(from_image[level](x), 0.2))
    lower = F.leaky_relu(from_image[level + 1](halved), 0.2)
    features = (1 - (lod - level)) * upper + (lod - level) * lower
    rest = critic_beginning_at(critic, level + 1)
    for block in rest.blocks:
        features = block(features)
    critic.lod = lod
    assert torch.allclose(critic(x), rest._scores(features), rtol=1e-12, atol=1e-12)


def test_growth_is_continuous(generator, critic):
    """Just before a whole level and at it the networks compute the same: fading in begins and ends without a jump."""
    for whole in (1.0, 2.0):
        generator.lod = whole - 2**-16  # the level above has hardly begun: twice the pixels, nearly the same image
        just_after = F.avg_pool2d(generator(z()), 2)
        generator.lod = whole
        assert torch.allclose(just_after, generator(z()), atol=1e-3)
        critic.lod = whole - 2**-16
        x = images(32 >> int(whole))
        scores = critic(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
        critic.lod = whole
        assert torch.allclose(scores, critic(x), rtol=1e-2)


def test_a_grown_generator_and_one_that_never_grew_have_the_same_parameters_first(generator):
    """So a run's optimiser state, indexed by parameter, means the same in both up to the lower image layers."""
    fixed = ProGANGenerator(ProGANConfig(latent_dim=5, channels=WIDTHS))
    names = [name for name, _ in fixed.named_parameters()]
    assert [name for name, _ in generator.named_parameters()][: len(names)] == names
    assert "level_of_detail" not in fixed.state_dict()


def test_the_level_travels_with_the_weights(generator, tmp_path):
    generator.lod = 1.5
    save_module(generator, tmp_path / "G.safetensors")
    loaded = ProGANGenerator(GROWS)
    load_module(loaded, tmp_path / "G.safetensors")
    assert loaded.lod == copy.deepcopy(loaded).lod == 1.5
    assert loaded.resolution == 16
    assert loaded(z().float()).shape[-1] == 16


@pytest.mark.parametrize("lod", [-0.1, 3.1])
def test_levels_out_of_range(generator, lod):
    with pytest.raises(ValueError, match=rf"`lod` must lie in \[0, 3\], got {lod}"):
        generator.lod = lod


def test_a_fixed_network_has_one_level():
    with pytest.raises(ValueError, match="`lod` of a network that does not grow is 0, got 1.0"):
        ProGANGenerator(ProGANConfig(latent_dim=5, channels=WIDTHS)).lod = 1.0


def test_penalties_fade_in_with_their_layers(generator):
    """Published: a layer of level l counts min(l + 1 - lod, 1) times, once it runs."""
    generator.lod = 1.25
    weights = {name: generator.fade_in(name) for name in ("blocks.0.norm0", "blocks.1.norm1", "blocks.2.norm0")}
    assert weights == {"blocks.0.norm0": 1.0, "blocks.1.norm1": 1.0, "blocks.2.norm0": 0.75}
    assert generator.fade_in("blocks.3.norm1") == generator.fade_in("to_image") == 0.0
    assert [generator.fade_in(f"to_lower_images.{index}") for index in range(3)] == [0.75, 1.0, 1.0]
    assert generator.fade_in("latent_norm") == 1.0


def test_only_what_runs_learns(generator):
    generator.requires_grad_(True)
    generator.lod = 1.0
    generator(z()).sum().backward()
    with_gradient = {name.rpartition(".")[0] for name, p in generator.named_parameters() if p.grad is not None}
    assert with_gradient == {
        "blocks.0.dense", "blocks.0.conv1", "blocks.1.conv0", "blocks.1.conv1", "blocks.2.conv0", "blocks.2.conv1",
        "to_lower_images.0",
    }  # fmt: skip


def test_the_published_critic_averages_before_the_activation():
    torch.manual_seed(0)
    plain, fused = (
        randomized(ProGANCritic(ProGANConfig(channels=(4, 3), fused_scale=fused))) for fused in (False, True)
    )
    fused.load_state_dict(plain.state_dict())
    x = images(8)
    inner = F.leaky_relu(plain.blocks[0].conv0(F.leaky_relu(plain.from_image(x), 0.2)), 0.2)
    linear = plain.blocks[0].conv1(inner)
    read = F.leaky_relu(plain.from_image(x), 0.2)
    assert torch.allclose(plain.blocks[0](read), F.avg_pool2d(F.leaky_relu(linear, 0.2), 2))
    assert torch.allclose(fused.blocks[0](read), F.leaky_relu(F.avg_pool2d(linear, 2), 0.2))


def test_fused_doubling_is_the_same_generator():
    torch.manual_seed(0)
    plain, fused = (
        randomized(ProGANGenerator(ProGANConfig(latent_dim=5, channels=WIDTHS, fused_scale=fused)))
        for fused in (False, True)
    )
    fused.load_state_dict(plain.state_dict())
    assert torch.allclose(fused(z()), plain(z()), rtol=1e-10, atol=1e-10)


def test_a_code_head_infers_latents_beside_the_scores():
    torch.manual_seed(0)
    critic = ProGANCritic(GROWS, code_dim=3)
    scores, codes = critic.scores_and_codes(images(32).float())
    assert torch.equal(scores, critic(images(32).float()))
    assert codes.shape == (4, 3)
    with pytest.raises(ValueError, match="infers no latents: build it with `code_dim`"):
        ProGANCritic(GROWS).scores_and_codes(images(32).float())
