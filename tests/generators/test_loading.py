import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator
from hessian_penalty.runs import RunFolder

CONFIG = ProGANConfig(latent_dim=3, channels=(8, 4))


@pytest.fixture
def run(tmp_path):
    torch.manual_seed(0)
    run = RunFolder.create(tmp_path / "run")
    run.config_path.write_text(json.dumps({"generator": {"latent_dim": 3, "channels": [8, 4]}}))
    checkpoint = run.checkpoint_path(1.0)
    checkpoint.mkdir(parents=True)
    weights = {name: tensor.contiguous() for name, tensor in ProGANGenerator(CONFIG).state_dict().items()}
    save_file(weights, checkpoint / "ema.safetensors")
    return run


def test_loads_what_was_saved_frozen(run):
    generator = load_generator(run)
    saved = load_file(run.latest_checkpoint() / "ema.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in generator.state_dict().items())
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_half_precision_files_are_widened(run):
    path = run.latest_checkpoint() / "ema.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path)
    assert load_generator(run).to_image.weight.dtype == torch.float32


def change_tensor(run, name, value):
    path = run.latest_checkpoint() / "ema.safetensors"
    tensors = load_file(path)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("to_image.bias", None, "missing to_image.bias"),
        ("extra", torch.zeros(1), "unexpected extra"),
        ("to_image.bias", torch.zeros(4), r"to_image.bias is \(4,\), expected \(3,\)"),
    ],
)
def test_says_which_tensor_does_not_fit(run, name, value, message):
    change_tensor(run, name, value)
    with pytest.raises(UserError, match=message):
        load_generator(run)


def test_a_damaged_file_is_named(run):
    path = run.latest_checkpoint() / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=re.escape(f"{path} cannot be read")):
        load_generator(run)


def test_a_config_without_generator_is_named(run):
    run.config_path.write_text("{}")
    with pytest.raises(UserError, match="has no field `generator`"):
        load_generator(run)


def test_an_unknown_field_is_named(run):
    run.config_path.write_text(json.dumps({"generator": {"latents": 3}}))
    with pytest.raises(UserError, match=r"generator has unknown fields latents; known ones: latent_dim"):
        load_generator(run)
