import pytest

from hessian_penalty.studies.faults import FAULT_ROWS, fault_records
from hessian_penalty.studies.study_table import StudyTable


def record(names, information=(), factors=("x", "y", "hue"), activeness=(1.0, 1.0, 1.0, 0.06), frechet=100.0):
    information = information or [[0.5, 0.5, 0.5]] * len(names)
    audit = {"factors": list(factors), "latent_names": list(names), "mutual_information": information}
    return {"activeness": list(activeness), "frechet": frechet, "audit": audit}


def only(found):
    return fault_records({"model": {0: found}})["model"][0]


def test_changes_are_against_vanilla_of_the_same_seed():
    found = {
        "vanilla": {0: record([], frechet=100.0), 1: record([], frechet=200.0)},
        "tuned": {
            0: record([], frechet=110.0),
            1: record([], frechet=190.0, activeness=(0.306, 0, 0, 0)),
            2: record([]),
        },
    }
    faults = fault_records(found)
    assert [faults["tuned"][seed]["frechet_change"] for seed in range(3)] == [
        pytest.approx(0.1),
        pytest.approx(-0.05),
        None,
    ]
    assert faults["tuned"][1]["activeness_change"] == pytest.approx(-0.9)
    assert faults["vanilla"][0]["frechet_change"] is None  # not 0 of itself
    table = StudyTable(faults, FAULT_ROWS)
    assert table.cell("tuned", FAULT_ROWS[0]) == "+3% ± 11%"
    assert table.cell("vanilla", FAULT_ROWS[0]) == "–"


def test_curvature_is_all_of_the_squared_entries():
    bent, flat = (record([]) | {"penalty": p, "off_diagonal_share": s} for p, s in ((8.0, 0.5), (2.0, 0.25)))
    faults = fault_records({"vanilla": {0: bent}, "tuned": {0: flat}})
    assert faults["tuned"][0]["curvature_change"] == pytest.approx(-0.5)


def test_dead_latents_are_those_below_a_twentieth_of_the_most_active():
    assert only(record([], activeness=(2.0, 0.11, 0.09, 0.0)))["dead_latents"] == 2
    assert only(record([], activeness=(0.0, 0.0)))["dead_latents"] == 2


def test_lost_and_mixed_factors_are_counted_by_the_names_of_the_latents():
    faults = only(record(["x + y", "", "x", ""]))
    assert (faults["lost_factors"], faults["mixed_latents"]) == (1, 1)
    faults = only(record(["", "", "", ""]))
    assert (faults["lost_factors"], faults["mixed_latents"]) == (3, 0)


def test_confusion_of_x_and_y_is_the_share_of_the_other_coordinate():
    information = [[0.8, 0.2, 0.0], [0.3, 0.6, 0.0], [0.1, 0.1, 0.9]]
    assert only(record(["x", "y", "hue"], information))["position_confusion"] == pytest.approx((0.25 + 0.5) / 2)
    assert only(record(["", "", "hue"], information))["position_confusion"] is None  # no latent carries a position
    two = record(["x1", "y0"], [[0.0, 0.0, 0.9, 0.45], [0.1, 0.4, 0.0, 0.0]], factors=("x0", "y0", "x1", "y1"))
    assert only(two)["position_confusion"] == pytest.approx((0.5 + 0.25) / 2)
    shapes = record(["xylem", ""], [[0.5, 0.1]] * 2, factors=("xylem", "yylem"))
    assert only(shapes)["position_confusion"] is None


def test_without_ground_truth_only_what_can_be_seen_is_told():
    faults = only({"activeness": [1.0], "frechet": None})
    assert faults == {"frechet_change": None, "activeness_change": None, "curvature_change": None, "dead_latents": 0.0}
