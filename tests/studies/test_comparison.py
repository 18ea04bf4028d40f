import shutil

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, read_json, write_json
from hessian_penalty.studies.comparison import describe, write_comparison
from hessian_penalty.studies.evaluation import Evaluator

QUICK = MeasureProtocol(
    activeness_samples=4, hessian_samples=2, frechet_images=8, path_length_pairs=0, predictability_pairs=0,
    audit_images=0, batch_size=16,
)  # fmt: skip


@pytest.fixture
def copied_run(small_run, tmp_path):
    def copy(name, **fields):
        shutil.copytree(small_run.path, tmp_path / name)
        run = RunFolder.open(tmp_path / name)
        record = read_json(run.config_path)
        for field, value in fields.items():
            record[field] |= value
        write_json(run.config_path, record)
        return run

    return copy


def test_the_page_shows_every_run(small_run, copied_run, tmp_path):
    other = copied_run("other")
    entries = write_comparison(
        [small_run, other], Evaluator(QUICK, None), tmp_path / "page.html", command="the command"
    )
    page = (tmp_path / "page.html").read_text()
    assert [entry.name for entry in entries] == ["vanilla", "other"]
    assert all(text in page for text in ("vanilla", "other", "the command", "no data set given"))


def test_descriptions_follow_the_configuration(copied_run):
    assert describe(copied_run("a")) == "Trained without the penalty."
    tuned = copied_run("b", penalty={"adaptive": 0.1}, provenance={"finetuned_from": "rotated"})
    assert describe(tuned) == "Trained with the Hessian Penalty at 10% of the main gradient, starting from rotated."
    fixed = copied_run("c", penalty={"weight": 0.25}, provenance={"rotated": {"method": "hessian"}})
    assert "weight 0.25, then rotated onto the directions found in it" in describe(fixed)
    orojar = copied_run("d", penalty={"adaptive": 0.02, "form": "orojar"})
    assert describe(orojar) == "Trained with Orthogonal Jacobian Regularization at 2% of the main gradient."
    infogan = copied_run("e", infogan={"weight": 1.0, "latents": 4})
    assert describe(infogan) == "Trained as an InfoGAN that infers 4 latents."


def test_kimg_counts_what_came_before_a_fine_tuning(copied_run):
    assert copied_run("a").trained_kimg() == pytest.approx(0.128)
    assert copied_run("b", provenance={"finetuned_from_kimg": 30.0}).trained_kimg() == pytest.approx(30.128)


def test_errors(small_run, tmp_path):
    evaluator = Evaluator(QUICK, None)
    with pytest.raises(UserError, match="Name at least one run"):
        write_comparison([], evaluator, tmp_path / "page.html")
    with pytest.raises(UserError, match="named twice"):
        write_comparison([small_run, small_run], evaluator, tmp_path / "page.html")
