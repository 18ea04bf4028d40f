import json
import math
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.runs import RunFolder, read_json
from hessian_penalty.studies import demo as demo_module
from hessian_penalty.studies.demo import Demo, DemoConfig
from hessian_penalty.studies.demo_assets import ASSETS, IMAGES, unpack_data, unpack_run

QUICK = DemoConfig().quick()


@contextmanager
def silent(title):
    yield lambda done, total, note="": None


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A demo that was interrupted in its second training, and then went on."""
    out = tmp_path_factory.mktemp("demo") / "demo"

    @contextmanager
    def interrupted(title):
        def update(done, total, note=""):
            if "rotated_finetuned" in title and done > 0.1:
                raise KeyboardInterrupt

        yield update

    with pytest.raises(KeyboardInterrupt):
        Demo(QUICK, out, interrupted).run()
    stages = []

    @contextmanager
    def listening(title):
        stages.append(title)
        yield lambda done, total, note="": None

    return out, Demo(QUICK, out, listening).run("the command"), stages


@pytest.mark.slow
def test_summary_has_what_is_promised(finished):
    out, summary, _ = finished
    assert read_json(out / "summary.json") == json.loads(json.dumps(summary))
    assert set(summary) == {"clevr-1fov", "clevr-simple", "seconds"}
    assert set(summary["clevr-1fov"]) == {"vanilla", "rotated"}
    assert set(summary["clevr-simple"]) == {"vanilla", "rotated", "vanilla_trained_on", "rotated_finetuned"}
    for group in ("clevr-1fov", "clevr-simple"):
        for measures in summary[group].values():
            assert len(measures["activeness"]) == 12
            assert all(math.isfinite(measures[key]) for key in ("effective_latents", "off_diagonal_share", "frechet"))
    assert summary["seconds"] > 0


@pytest.mark.slow
def test_an_interrupted_demo_goes_on(finished):
    """What was complete is not done again; the interrupted training is resumed."""
    out, _, stages = finished
    assert [stage for stage in stages if "directions" in stage] == ["clevr-1fov: finding directions"]
    assert "clevr-simple: training vanilla_trained_on" not in stages
    assert "clevr-simple: training rotated_finetuned" in stages
    kimgs = [record["kimg"] for record in RunFolder.open(out / "clevr-simple" / "rotated_finetuned").metrics()]
    assert kimgs == sorted(set(kimgs))


@pytest.mark.slow
def test_the_page_shows_every_model(finished):
    page = (finished[0] / "report.html").read_text()
    for name in ("vanilla", "rotated", "vanilla_trained_on", "rotated_finetuned", "clevr-1fov", "the command"):
        assert name in page


@pytest.mark.slow
def test_rotated_models_make_the_same_pictures(finished):
    out = finished[0]
    vanilla, rotated = (load_generator(RunFolder.open(out / "clevr-1fov" / name)) for name in ("vanilla", "rotated"))
    from hessian_penalty.directions.directions import Directions

    matrix = Directions.load(out / "clevr-1fov" / "rotated" / "directions.safetensors").matrix
    w = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
    assert float((rotated(w) - vanilla(w @ matrix)).abs().max()) < 1e-4


@pytest.mark.slow
def test_only_the_fine_tuning_has_the_penalty(finished):
    out = finished[0] / "clevr-simple"
    configs = {name: read_json(out / name / "config.json") for name in ("vanilla_trained_on", "rotated_finetuned")}
    assert configs["vanilla_trained_on"]["penalty"]["adaptive"] == 0
    assert configs["rotated_finetuned"]["penalty"]["adaptive"] > 0
    assert configs["vanilla_trained_on"]["total_kimg"] == configs["rotated_finetuned"]["total_kimg"]
    assert configs["rotated_finetuned"]["provenance"]["finetuned_from"] == "rotated"


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(finished):
    with pytest.raises(UserError, match="holds a demo with other settings"):
        Demo(replace(QUICK, seed=5), finished[0], silent).run()


@pytest.mark.parametrize("name", IMAGES)
def test_shipped_pictures_and_models(name, tmp_path):
    dataset = unpack_data(name, tmp_path / "data")
    assert dataset.images_uint8.shape == (IMAGES[name], 32, 32, 3)
    run = unpack_run(name, tmp_path / "run", dataset)
    generator = load_generator(run)
    images = generator(generator.sample_latents(64, torch.Generator().manual_seed(0)))
    real = dataset.batch(slice(0, 64))
    assert float((images.mean(0) - real.mean(0)).abs().mean()) < 0.1  # it has learned where the grey plane is
    coloured = (images.amax(1) - images.amin(1) > 0.4).float().mean()
    assert float(coloured) == pytest.approx(float((real.amax(1) - real.amin(1) > 0.4).float().mean()), rel=0.5)


def test_shipped_factors_describe_the_pictures(tmp_path):
    """The cube's column of pixels follows x."""
    dataset = unpack_data("clevr-1fov", tmp_path / "data")
    (x,) = dataset.factors()
    images = np.asarray(dataset.images_uint8, dtype=float)
    redness = images[..., 0] - images[..., 1:].mean(-1)
    redness[redness < 60] = 0
    columns = (redness.sum(1) * np.arange(32)).sum(1) / redness.sum((1, 2))
    assert np.corrcoef(x.values, columns)[0, 1] > 0.99


def test_assets_stay_small_and_say_how_they_were_made():
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    assert size < 10 * 2**20
    for name in IMAGES:
        assert read_json(ASSETS / name / "config.json")["provenance"]["command"].startswith("hessian-penalty train")


def test_the_groups_are_the_shipped_ones():
    assert set(demo_module.GROUPS) == set(IMAGES)
