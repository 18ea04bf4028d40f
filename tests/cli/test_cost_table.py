import re

import pytest

from hessian_penalty.cli.cost_table import print_cost
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.estimate import Estimate, Stage


def shown(capsys, gigabytes, images_per_second=100.0, flop=1e15):
    stage = Stage(32, 120.0, 32, 8, images_per_second, flop, int(gigabytes * 1e9), False)
    print_cost(TrainingConfig(), Estimate((stage,), {"generator": 1234}, "cpu"))
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("images_per_second", "time"),
    [(100.0, "20 min"), (10.0, "3.3 h"), (0.1, "333 h"), (4000.0, "30 s")],
)
def test_a_time_has_its_unit(capsys, images_per_second, time):
    assert f" on cpu: {time}, 1.00 GiB peak memory" in shown(capsys, 1.0737, images_per_second)


def test_a_gpu_s_time_is_operations_over_forty_percent_of_its_peak(capsys):
    """10¹⁸ operations on a T4: 10¹⁸ / (8.1e12 · 0.4) s = 86 h."""
    assert re.search(r"T4 .* 8\.1 TFLOPS .* 86 h", shown(capsys, 1.0, flop=1e18))


def test_memory_that_does_not_fit_is_said_so(capsys):
    text = shown(capsys, 20.0)
    assert re.search(r"T4 .*16 GB: too little for this batch", text)
    assert re.search(r"RTX 4090 .*24 GB: tight", text)
    assert re.search(r"A100 .*80 GB +│", text)


def test_counted_memory_and_a_smaller_timed_batch_are_marked(capsys):
    assert re.search(r"32 px .* 120 .* 32 .* 100 .* 8 .* ~0\.93", shown(capsys, 1.0))
