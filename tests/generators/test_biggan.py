import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.errors import UserError
from hessian_penalty.generators.biggan import BigGAN, BigGANConfig, load_biggan, random_biggan
from hessian_penalty.generators.biggan_layers import (
    ConditionalNorm,
    SelfAttention,
    SpectralConv2d,
    SpectralLayer,
    SpectralLinear,
    StoredNorm,
    UpBlock,
    singular_value,
)
from hessian_penalty.generators.biggan_network import block_widths
from hessian_penalty.generators.protocol import Generator

EXAMPLE = Path(__file__).parents[3] / "shared" / "data" / "biggan128"
needs_example = pytest.mark.skipif(
    not EXAMPLE.is_dir(), reason=f"{EXAMPLE}, written with the public implementation, is not there"
)
SMALL = BigGANConfig(channels=4, classes=10)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def G():
    return random_biggan(SMALL, seed=0)


@pytest.fixture(scope="module")
def z(G):
    return G.sample_latents(2, seeded(1))


def redrawn(G):
    """A copy with normal weights, whose singular values are not 1, as training leaves them."""
    state = {name: value.clone() for name, value in G.state_dict().items()}
    for name in state:
        if name.endswith("u0"):
            weight = name.removesuffix("u0") + "weight"
            state[weight] = torch.randn(state[weight].shape, generator=seeded(len(name))) / 3
    return state


# The published checkpoint


@needs_example
def test_names_and_shapes_are_those_of_the_checkpoint():
    wanted = {name: tuple(shape) for name, (_, shape) in json.loads((EXAMPLE / "parameters.json").read_text()).items()}
    with torch.device("meta"):
        state = BigGAN(BigGANConfig()).state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == wanted
    assert len(wanted) == 166


@needs_example
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_images_are_those_of_the_public_implementation(tmp_path, scale):
    """Also where weights have other singular values than 1, as all of the example do."""
    tensors = load_file(EXAMPLE / "small_random.safetensors")
    for name in [name for name in tensors if name.endswith("u0")]:
        tensors[name.removesuffix("u0") + "weight"] *= scale
    save_file(tensors, tmp_path / "scaled.safetensors")
    G = load_biggan(tmp_path / "scaled.safetensors")
    assert G.config == SMALL
    assert torch.allclose(G(tensors["z"], tensors["labels"]), tensors["images"], atol=1e-4, rtol=0)


# Layers


def test_one_power_iteration_gives_the_length_of_the_image_of_its_vector():
    weight, u = torch.randn(5, 3, 2, 2, generator=seeded()).double(), torch.randn(1, 5, generator=seeded(1)).double()
    matrix = weight.reshape(5, 12)
    v = matrix.T @ u[0]
    left = matrix @ v / v.norm()
    expected = (left / left.norm()) @ matrix @ (v / v.norm())
    assert float(singular_value(weight, u)) == pytest.approx(float(expected), rel=1e-12)


def test_power_iteration_from_the_left_singular_vector_gives_the_largest_singular_value():
    weight = torch.randn(7, 4, generator=seeded()).double()
    left, values, _ = torch.linalg.svd(weight)
    assert float(singular_value(weight, left[:, :1].T)) == pytest.approx(float(values[0]), rel=1e-12)


@pytest.mark.parametrize("layer", [SpectralLinear(6, 4), SpectralLinear(3, 8), SpectralConv2d(3, 5, 3)])
def test_a_loaded_weight_is_divided_once(layer):
    state = {name: torch.randn(value.shape, generator=seeded()) for name, value in layer.state_dict().items()}
    layer.load_state_dict(state)
    once = layer.state_dict()
    assert torch.allclose(once["weight"] * singular_value(state["weight"], state["u0"]), state["weight"], atol=1e-6)
    assert float(once["sv0"]) == 1
    again = copy.deepcopy(layer)
    again.load_state_dict({name: value.clone() for name, value in once.items()})
    assert torch.allclose(again.weight, layer.weight, atol=1e-6)
    assert not again.weight.requires_grad


def test_assigned_tensors_are_not_written_over():
    layer = SpectralLinear(6, 4)
    state = {name: torch.full_like(value, 5.0) for name, value in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    assert all(bool((value == 5).all()) for value in state.values())
    assert float(layer.weight[0, 0]) == pytest.approx(1 / math.sqrt(24))


def test_drawn_weights_are_orthogonal():
    G = BigGAN(SMALL, seeded())
    layers = [module for module in G.modules() if isinstance(module, SpectralLayer)]
    assert len(layers) == 1 + 5 * 7 + 4 + 1
    for layer in layers:
        values = torch.linalg.svdvals(layer.weight.flatten(1))
        assert torch.allclose(values, torch.ones_like(values), atol=1e-5)
        assert float(layer.u0.norm()) == pytest.approx(1)
        assert float(singular_value(layer.weight, layer.u0)) == pytest.approx(1, abs=1e-5)


def test_conditional_norm_is_batch_norm_with_the_conditions_gain_and_bias():
    norm = ConditionalNorm(6, 4).double()
    x, y = torch.randn(3, 6, 2, 2, generator=seeded()).double(), torch.randn(3, 4, generator=seeded(1)).double()
    norm.gain.draw(seeded(2))
    norm.bias.draw(seeded(3))
    norm.stored_mean.copy_(torch.randn(6, generator=seeded(4)))
    norm.stored_var.copy_(torch.rand(6, generator=seeded(5)) + 0.5)
    plain = F.batch_norm(x, norm.stored_mean, norm.stored_var, eps=1e-5)
    gain, bias = 1 + y @ norm.gain.weight.T, y @ norm.bias.weight.T
    assert torch.allclose(norm(x, y), plain * gain[:, :, None, None] + bias[:, :, None, None], atol=1e-12)


def test_shortcut_is_convolved_before_it_is_doubled():
    block = UpBlock(4, 3, 5)
    for layer in block.modules():
        if isinstance(layer, SpectralLayer):
            layer.draw(seeded())
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 3, 3, generator=seeded())
    expected = block.conv_sc(x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert torch.allclose(block(x, torch.zeros(2, 5)), expected, atol=1e-6)


def test_attention_by_loops():
    attention = SelfAttention(8).double()
    for layer in (attention.theta, attention.phi, attention.g, attention.o):
        layer.draw(seeded())
    x = 2 * torch.randn(1, 8, 4, 4, generator=seeded(1)).double()
    assert torch.equal(attention(x), x)
    attention.gamma.fill_(0.5)
    corners = [(0, 0), (0, 2), (2, 0), (2, 2)]
    keys = [attention.phi(x)[0, :, i : i + 2, j : j + 2].amax(dim=(1, 2)) for i, j in corners]
    values = [attention.g(x)[0, :, i : i + 2, j : j + 2].amax(dim=(1, 2)) for i, j in corners]
    got = attention(x)[0]
    for i in range(4):
        for j in range(4):
            similarities = torch.stack([attention.theta(x)[0, :, i, j] @ key for key in keys]).exp()
            found = sum(s / similarities.sum() * value for s, value in zip(similarities, values, strict=True))
            expected = x[0, :, i, j] + 0.5 * attention.o.weight[:, :, 0, 0] @ found
            assert torch.allclose(got[:, i, j], expected, atol=1e-12)


# The generator


def test_shapes_range_and_protocol(G, z):
    images = G(z, 0)
    assert images.shape == (2, 3, SMALL.resolution, SMALL.resolution) == (2, 3, 128, 128)
    assert float(images.abs().max()) <= 1
    assert isinstance(G, Generator)
    assert not any(parameter.requires_grad for parameter in G.parameters())


def test_it_is_a_function_of_its_arguments_in_either_mode(G, z):
    before = {name: value.clone() for name, value in G.state_dict().items()}
    first = G(z, 3)
    assert not G.training
    G.train()
    assert torch.equal(G(z, 3), first)
    G.eval()
    assert all(torch.equal(value, before[name]) for name, value in G.state_dict().items())


def test_samples_of_one_batch_do_not_influence_each_other(G, z):
    G64, labels = copy.deepcopy(G).double(), torch.tensor([4, 9])
    assert torch.allclose(G64(z.double(), labels)[1:2], G64(z[1:2].double(), labels[1:2]), atol=1e-12)


def test_a_class_for_all_and_a_class_for_each(G, z):
    images = G(z, 7)
    assert torch.equal(G(z, torch.tensor([7, 7])), images)
    assert torch.equal(G(z, torch.tensor([7, 7], dtype=torch.int32)), images)
    assert torch.equal(G(z, torch.tensor(7)), images)
    assert torch.equal(G(z, torch.tensor([7])), images)
    assert not torch.allclose(G(z, torch.tensor([7, 8]))[1], images[1], atol=1e-2)


def test_gradient_with_respect_to_the_latents(G, z):
    G64, along = copy.deepcopy(G).double(), torch.randn(z.shape, generator=seeded(2)).double()
    weights = torch.randn(2, 3, 128, 128, generator=seeded(3)).double() / 1000
    point = z.double().requires_grad_()
    (gradient,) = torch.autograd.grad((G64(point, 2) * weights).sum(), point)
    assert (gradient.abs().amax(dim=0) > 0).all()  # every component counts
    step = 1e-8  # small, since a larger one crosses kinks of some of the million ReLUs
    ahead, behind = ((G64(z.double() + s * along, 2) * weights).sum() for s in (step, -step))
    assert float((gradient * along).sum()) == pytest.approx(float((ahead - behind) / (2 * step)), rel=1e-3)


def conditions_of_blocks(G, z):
    seen = []
    hooks = [
        block[0].bn1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1])) for block in G.blocks
    ]
    hooks.append(G.linear.register_forward_pre_hook(lambda module, inputs: seen.insert(0, inputs[0])))
    G(z, 1)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("name", "parts"), [("coarse", [0, 1]), ("mid", [2, 3]), ("fine", [4, 5]), ("all", range(6))])
def test_a_subspace_changes_what_its_layers_read_and_nothing_else(G, z, name, parts):
    moved = z.clone()
    moved[:, G.subspaces[name]] += 1
    before, after = conditions_of_blocks(G, z), conditions_of_blocks(G, moved)
    assert len(before) == 6
    changed = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if not torch.equal(x, y)]
    assert changed == list(parts)
    assert len(subspace_rows(G, name)) == 20 * len(parts)


def test_latent_weights_are_the_derivatives_of_what_reads_the_latent(G):
    G = BigGAN(SMALL, seeded())
    G.load_state_dict(redrawn(G))
    seen = []
    readers = [G.linear]
    for block in G.blocks:
        readers += [block[0].bn1.gain, block[0].bn1.bias, block[0].bn2.gain, block[0].bn2.bias]

    def read(z):
        seen.clear()
        hooks = [layer.register_forward_hook(lambda module, inputs, output: seen.append(output)) for layer in readers]
        G(z[None], 6)
        for hook in hooks:
            hook.remove()
        return torch.cat(seen, dim=1)[0]

    point = torch.randn(120, generator=seeded(1))
    weights = G.latent_weights()
    assert weights.shape == (64 * 16 + 2 * sum(before + after for before, after in block_widths(4)), 120)
    along = torch.randn(120, generator=seeded(2))
    _, derivative = torch.func.jvp(read, (point,), (along,))
    assert torch.allclose(derivative, weights @ along, atol=1e-5)
    assert bool((weights[: 64 * 16, 20:] == 0).all())


def test_draws_are_seeded_and_distributed_as_they_should(G):
    first, second = (G.sample_latents(400, seeded(1)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (400, 120)
    assert float(first.mean().abs()) < 4.5 / math.sqrt(first.numel())
    assert abs(float(first.var()) - 1) < 4.5 * math.sqrt(2 / first.numel())
    labels = G.sample_labels(10_000, seeded(2))
    assert torch.equal(labels, G.sample_labels(10_000, seeded(2)))
    deviations = (labels.bincount(minlength=10) - 1000) / math.sqrt(10_000 * 0.1 * 0.9)
    assert len(deviations) == 10
    assert float(deviations.abs().max()) < 4.5
    assert G.sample_latents(2).shape == (2, 120)
    assert G.sample_labels(2).shape == (2,)


def test_latents_have_the_precision_of_the_weights(G):
    assert copy.deepcopy(G).double().sample_latents(1).dtype == torch.float64


def test_a_search_can_draw_classes(G):
    space = Space(G, subspace_rows(G, "coarse"), {"labels": "random"})
    drawn, conditions = space.sample(2, seeded())
    assert next(space.images(drawn[None], conditions)).shape == (2, 3, 128, 128)


def test_random_biggan_has_the_statistics_of_its_batch(G):
    rng = seeded()
    BigGAN(SMALL, rng)
    drawn, labels = G.sample_latents(16, rng), G.sample_labels(16, rng)
    errors = []

    def compare(norm, inputs):
        x = inputs[0].double().transpose(0, 1).flatten(1)  # (C, NHW)
        errors.append((norm.stored_mean - x.mean(dim=1)).abs().max() / x.std())
        errors.append((norm.stored_var / x.var(dim=1, correction=0) - 1).abs().max())

    hooks = [norm.register_forward_pre_hook(compare) for norm in G.modules() if isinstance(norm, StoredNorm)]
    G(drawn, labels)
    for hook in hooks:
        hook.remove()
    assert len(errors) == 2 * 11
    assert float(torch.stack(errors).max()) < 1e-4


def test_random_biggan_is_seeded_and_its_images_vary(G, z):
    assert torch.equal(BigGAN(SMALL, seeded()).linear.weight, G.linear.weight)
    images = G(z, 0)
    assert float(images.std(dim=0).mean()) > 0.1
    assert float((images.abs() > 0.99).float().mean()) < 0.05
    assert float(next(m for m in G.modules() if isinstance(m, SelfAttention)).gamma) == 1


# Errors


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"`labels` is missing: BigGAN makes images of classes. Give a class in \[0, 9\], or an integer tensor"),
        (10, r"`labels` must be a class in \[0, 9\], .* got 10\."),
        (-1, r"got -1\."),
        (torch.tensor([0, 11]), r"a class in \[0, 9\], or an integer tensor of 2 of them, .* got 11\."),
        (torch.tensor([0, 1, 2]), r"one for each latent, got the shape \(3,\)\."),
        (torch.zeros(2, 10, dtype=torch.int64), r"got the shape \(2, 10\)\."),
        (torch.zeros(1, 1, dtype=torch.int64), r"got the shape \(1, 1\)\."),
        (torch.tensor([10]), r"got 10\."),
        (torch.zeros(2), r"got torch.float32; `labels.long\(\)` makes them integers\."),
    ],
)
def test_label_errors(G, z, labels, message):
    with pytest.raises(UserError, match=message):
        G(z, labels)


def test_a_latent_of_another_length_is_refused(G):
    with pytest.raises(UserError, match="`z` must have 120 components, got 100"):
        G(torch.zeros(1, 100), 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 3}, r"generator.channels must be a finite number at least 4, got 3\."),
        ({"classes": 0}, r"generator.classes must be a finite number at least 1, got 0\."),
        ({"shared_dim": 0}, r"generator.shared_dim must be a finite number at least 1, got 0\."),
        ({"latent_dim": 100}, r"generator.latent_dim must be a positive multiple of 6, .* got 100\."),
        ({"latent_dim": 0}, r"positive multiple of 6, .* got 0\."),
    ],
)
def test_config_errors(fields, message):
    with pytest.raises(UserError, match=message):
        BigGANConfig(**fields)


# Files


@pytest.mark.parametrize("name", ["a.pth", "a.pt", "a.safetensors"])
def test_a_saved_state_gives_the_same_images(tmp_path, z, name):
    G = BigGAN(SMALL, seeded())
    G.load_state_dict(redrawn(G))
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(G.state_dict(), path)
    loaded = load_biggan(path)
    assert loaded.config == SMALL
    assert torch.allclose(loaded(z, 5), G(z, 5), atol=1e-5)
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(value.device.type == "cpu" for value in loaded.state_dict().values())


def test_other_sizes_are_read_off_the_tensors(tmp_path):
    config = BigGANConfig(channels=5, classes=3, latent_dim=12, shared_dim=7)
    torch.save({"state_dict": BigGAN(config).half().state_dict(), "epoch": 3}, tmp_path / "nested.pth")
    G = load_biggan(str(tmp_path / "nested.pth"))
    assert G.config == config
    assert G.linear.weight.dtype == torch.float32
    assert G.subspaces["mid"] == slice(4, 8)


@pytest.fixture
def state(G):
    return {name: value.clone() for name, value in G.state_dict().items()}


def refused(path, message):
    with pytest.raises(UserError, match=message) as caught:
        load_biggan(path)
    assert str(path) in str(caught.value)


def test_says_which_tensors_do_not_fit(tmp_path, state):
    for name in [name for name in state if ".sv0" in name][:4]:
        del state[name]
    state["linear.bias"] = torch.zeros(7)
    state["blocks.5.0.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "a.pth")
    refused(
        tmp_path / "a.pth",
        r"128 pixels: 4 missing \(linear.sv0, blocks.0.0.conv1.sv0, blocks.0.0.conv2.sv0, …\); "
        r"1 unexpected \(blocks.5.0.conv1.weight\); "
        r"1 of another shape \(linear.bias \(7,\) instead of \(1024,\)\)",
    )


def test_another_networks_tensors(tmp_path):
    save_file({"fc.weight": torch.zeros(2, 2)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", r"166 missing \(shared.weight, .*1 unexpected \(fc.weight\)")


@pytest.mark.parametrize("name", ["output_layer.0.gain", "shared.weight", "linear.weight"])
def test_tensors_that_tell_the_size_may_have_any_shape(tmp_path, state, name):
    state[name] = torch.zeros(())
    torch.save(state, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", rf"{name} \(\) instead of")


def test_an_impossible_size(tmp_path, state):
    state["output_layer.0.gain"] = torch.zeros(2)
    torch.save(state, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", r"holds no BigGAN generator: generator.channels must be a finite number at least 4")


@pytest.mark.parametrize(("name", "value"), [("output_layer.0.bias", math.nan), ("blocks.3.1.o.weight", 0.0)])
def test_numbers_that_give_no_images(tmp_path, state, name, value):
    state[name].fill_(value)
    torch.save(state, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", rf"is damaged: of its tensors 1 are not finite, or weights of zeros only \({name}\)")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_damaged_file(tmp_path, state, name):
    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(state, path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, r"cannot be read \(.*\); get it again")


class Attached:
    def __reduce__(self):
        return (print, ("run",))


def test_code_is_never_run(tmp_path, state, capsys):
    torch.save({**state, "extra": Attached()}, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", "is damaged, or holds other objects than tensors, .* save the generator's `state_dict")
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ([torch.zeros(1)], "got a list"),
        ({"state_dict": {"epoch": 3, "lr": 0.1, "linear.bias": torch.zeros(1)}}, r"with 2 other entries \(epoch, lr\)"),
        ({0: torch.zeros(1)}, r"with 1 other entries \(0\)"),
    ],
)
def test_content_that_is_no_dictionary_of_tensors(tmp_path, content, got):
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", f"must hold a dictionary of named tensors, .*{got}")


def test_paths_that_cannot_be_a_checkpoint(tmp_path):
    refused(tmp_path / "nowhere.pth", "is not a file; give the path of a BigGAN checkpoint")
    (tmp_path / "a.pkl").write_bytes(b"")
    refused(tmp_path / "a.pkl", re.escape("must end in .pth, .pt or .safetensors, got '.pkl'"))
