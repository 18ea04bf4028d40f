import dataclasses
import math
import re

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.training.config import GrowthConfig, InfoGANConfig, PenaltyConfig, TrainingConfig


def test_vanilla_by_default():
    assert not TrainingConfig().penalty.enabled
    assert PenaltyConfig(weight=0.1).enabled
    assert PenaltyConfig(adaptive=0.1).enabled


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (PenaltyConfig, {"weight": -1.0}, "penalty.weight must be a finite number at least 0, got -1"),
        (PenaltyConfig, {"weight": 1.0, "adaptive": 0.1}, "exclude each other"),
        (PenaltyConfig, {"reduction": "sum"}, "penalty.reduction must be max or mean, got 'sum'"),
        (PenaltyConfig, {"form": "huber"}, "penalty.form must be hessian or orojar, got 'huber'"),
        (PenaltyConfig, {"weight": math.nan}, "penalty.weight must be a finite number at least 0, got nan"),
        (PenaltyConfig, {"k": 1}, "penalty.k must be a finite number at least 2, got 1"),
        (PenaltyConfig, {"interval": 0}, "penalty.interval must be a finite number at least 1, got 0"),
        (PenaltyConfig, {"epsilon": 0.0}, "penalty.epsilon must be a finite number at least 1e-06, got 0"),
        (TrainingConfig, {"batch_size": 0}, "batch_size must be a finite number at least 1, got 0"),
        (TrainingConfig, {"total_kimg": math.inf}, "total_kimg must be a finite number at least 1e-06, got inf"),
        (TrainingConfig, {"adam_beta2": 1.0}, r"adam_beta2 must be a finite number in \[0, 0.999999\], got 1"),
        (TrainingConfig, {"r1_gamma": -1.0}, "r1_gamma must be a finite number at least 0, got -1"),
        (TrainingConfig, {"loss": "hinge"}, "loss must be logistic or wgan-gp, got 'hinge'"),
        (TrainingConfig, {"gradient_weight": -1.0}, "gradient_weight must be a finite number at least 0, got -1"),
        (TrainingConfig, {"drift_weight": math.inf}, "drift_weight must be a finite number at least 0, got inf"),
        (TrainingConfig, {"seed": 10**20}, r"seed must be a finite number in \[0, 1e\+15\], got 1e\+20"),
        (
            TrainingConfig,
            {"batch_size": 1, "penalty": PenaltyConfig(weight=1.0, scale_free=True)},
            "batch_size must be at least 2, got 1",
        ),
    ],
)
def test_config_errors(kind, fields, message):
    with pytest.raises(UserError, match=message):
        kind(**fields)


def test_every_field_is_documented():
    for kind in (TrainingConfig, PenaltyConfig, GrowthConfig, InfoGANConfig):
        for field in dataclasses.fields(kind):
            assert re.search(rf"        (\w+, )*{field.name}(, \w+)*:", kind.__doc__), field.name
