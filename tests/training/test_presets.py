import dataclasses
import json
from typing import get_args

import pytest

from hessian_penalty.generators.progan import ProGANGenerator
from hessian_penalty.penalty.layers import match_layers
from hessian_penalty.runs import from_record
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.presets import PRESETS, Method
from hessian_penalty.training.schedule import phase_at
from hessian_penalty.training.trainer import config_record

PUBLISHED = [name for name in PRESETS if not name.endswith("-tiny")]


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name, method):
    config = PRESETS[name].training(method, finetune=method == "hessian")
    record = json.loads(json.dumps(config_record(config)))
    record.pop("provenance")
    assert from_record(TrainingConfig, record, "config.json") == config


def test_each_experiment_has_its_small_form():
    assert {f"{name}-tiny" for name in PUBLISHED} == set(PRESETS) - set(PUBLISHED)


@pytest.mark.parametrize(
    ("name", "latent_dim", "weight", "factors", "orojar"),
    [
        ("clevr-simple", 12, 0.1, 4, 1e-6),
        ("clevr-complex", 12, 0.1, 10, 1e-5),
        ("clevr-u", 3, 0.025, 3, 1e-5),
        ("clevr-1fov", 12, 0.025, 1, 1e-4),
        ("edges-and-shoes", 12, 0.1, 12, 1e-5),
    ],
)
def test_published_values(name, latent_dim, weight, factors, orojar):
    preset = PRESETS[name]
    vanilla, penalised = preset.training("vanilla"), preset.training("hessian")
    assert (vanilla.generator.latent_dim, vanilla.generator.resolution, vanilla.total_kimg) == (latent_dim, 128, 50_000)
    assert (vanilla.loss, vanilla.gradient_weight, vanilla.drift_weight) == ("wgan-gp", 10, 1e-3)
    assert (vanilla.learning_rate, vanilla.adam_beta2, vanilla.ema_half_life_kimg) == (1e-3, 0.99, 10)
    batches = [phase_at(vanilla, kimg).batch_size for kimg in (600.0, 1700.0, 2900.0, 4100.0, 5300.0, 6000.0)]
    assert batches == [2048, 1024, 512, 256, 128, 96]
    penalty = penalised.penalty
    assert (penalty.weight, penalty.epsilon, penalty.k, penalty.reduction, penalty.ramp_kimg) == (
        weight,
        0.1,
        2,
        "max",
        0,
    )
    assert preset.training("hessian", finetune=True).penalty == dataclasses.replace(penalty, ramp_kimg=10_000.0)
    assert preset.training("infogan").infogan.latents == factors
    assert preset.training("orojar").penalty == dataclasses.replace(penalty, form="orojar", weight=orojar)


def test_layers_1_to_10_of_13_are_penalised():
    config = PRESETS["clevr-simple"].training("hessian")
    small = ProGANGenerator(dataclasses.replace(config.generator, channels=(2,) * 6))
    assert list(match_layers(small, config.penalty.layers)) == [
        f"blocks.{block}.norm{index}" for block in range(5) for index in range(2)
    ]


def test_tiny_presets_know_the_papers_setting():
    """Its weight and maximum, and all layers but those of the last resolution, as far as it goes at this size."""
    penalty = PRESETS["clevr-1fov-tiny"].training("published").penalty
    assert (penalty.weight, penalty.reduction, penalty.scale_free, penalty.adaptive) == (0.025, "max", False, 0.0)
    generator = ProGANGenerator(PRESETS["clevr-1fov-tiny"].vanilla.generator)
    assert list(match_layers(generator, penalty.layers)) == [f"blocks.{b}.norm{i}" for b in range(3) for i in range(2)]
    for name in PUBLISHED:
        assert PRESETS[name].published == PRESETS[name].hessian
