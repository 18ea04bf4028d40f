import dataclasses
import json

import pytest

from hessian_penalty.metrics.measures import Measures
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.reports.measures_table import ROWS
from hessian_penalty.studies.study_table import StudyTable

PLAIN = Measures(
    protocol=MeasureProtocol(),
    activeness=(0.5, 0.25),
    activeness_published=(0.5, 0.25),
    effective_latents=2.0,
    penalty=100.0,
    off_diagonal_share=0.5,
    hessian=((1.0, 0.5), (0.5, 1.0)),
    frechet=700.0,
)
ROW = {row.key: row for row in ROWS}


def seeds(**changes):
    """Records of seeds 0, 1, … whose named fields take these values."""
    count = len(next(iter(changes.values())))
    return {
        s: dataclasses.replace(PLAIN, **{name: values[s] for name, values in changes.items()}).record()
        for s in range(count)
    }


@pytest.fixture
def table():
    return StudyTable(
        {
            "vanilla": seeds(frechet=(700.0, 710.0, 720.0), diagonal_fraction=(0.25, 0.25, 0.25)),
            "rotated": seeds(frechet=(650.0, None, 850.0), diagonal_fraction=(0.5, 0.75, 1.0)),
            "diverged": {},
        }
    )


def test_mean_and_spread_over_the_seeds_that_have_the_measure(table):
    vanilla, rotated = (table.spread(model, ROW["frechet"]) for model in ("vanilla", "rotated"))
    assert (vanilla.mean, vanilla.deviation) == (710.0, pytest.approx(10.0))
    assert (rotated.mean, rotated.deviation) == (750.0, pytest.approx(20000**0.5))
    assert table.spread("diverged", ROW["frechet"]) is None


def test_the_best_mean_is_marked_the_way_that_the_measure_goes(table):
    assert table.best(ROW["frechet"]) == {"vanilla"}
    assert table.best(ROW["diagonal_fraction"]) == {"rotated"}
    assert table.best(ROW["total_activeness"]) == set()  # neither way is better
    lines = table.markdown().splitlines()
    assert lines[0] == "| | vanilla | rotated | diverged |"
    assert "| Fréchet distance ↓ | **710 ± 10** | 750 ± 141 | – |" in lines
    precise = StudyTable({"model": {seed: {"path_length": value} for seed, value in enumerate((12.0, 13.1))}})
    assert [precise.cell("model", row) for row in precise.rows if row.key == "path_length"] == ["12.6 ± 0.8"]
    assert "| Diagonal Hessians ↑ | 25% ± 0% | **75% ± 25%** | – |" in lines


def test_measures_that_no_model_has_are_left_out(table):
    assert not {"path_length", "audit.mig", "predictability", "kimg"} & {row.key for row in table.rows}


def test_one_seed_has_no_spread():
    table = StudyTable({"vanilla": seeds(frechet=(700.0,))})
    assert table.cell("vanilla", ROW["frechet"]) == "700"
    assert table.best(ROW["frechet"]) == set()  # of one model


def test_page_and_record_say_the_same(table):
    html = table.html("the caption")
    assert "<b>710 ± 10</b>" in html and "the caption" in html and html.count("<tr>") == len(table.rows) + 1
    record = json.loads(json.dumps(table.record()))
    assert record["rotated"]["frechet"] == {"mean": 750.0, "deviation": 20000**0.5, "values": [650.0, 850.0]}
