import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import norm, ortho_group

from hessian_penalty.data.image_dataset import Factor
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.factor_audit import FactorAudit, factor_audit, latent_names, position_groups
from hessian_penalty.runs import from_record

COUNT, N = 2000, 6
PROBE = {"shape": 0.97, "x": 0.99, "y": 0.98, "unused": 0.1}
SCORES = ("mig", "mig_grouped", "sap", "dci_disentanglement", "dci_completeness", "dci_disentanglement_grouped",
          "dci_completeness_grouped")  # fmt: skip


def latents():
    return np.random.default_rng(0).standard_normal((COUNT, N))


def factors_of(z):
    """x and y are monotone maps of the latents 0 and 1, shape a cut of latent 3; 2, 4 and 5 are dead."""
    return [
        Factor("x", "continuous", norm.cdf(z[:, 0])),
        Factor("y", "continuous", -norm.cdf(z[:, 1])),
        Factor("shape", "categorical", (z[:, 3] > 0.1).astype(np.int64), ("cube", "sphere")),
    ]


@pytest.fixture(scope="module")
def perfect():
    return factor_audit(latents(), factors_of(latents()), PROBE)


def test_a_factorised_code_scores_high_and_its_latents_are_named(perfect):
    assert perfect.factors == ("x", "y", "shape")
    assert perfect.probe_scores == (0.99, 0.98, 0.97)
    assert perfect.images == COUNT
    assert perfect.latent_names == ("x", "y", "", "shape", "", "")
    assert min(getattr(perfect, name) for name in SCORES) > 0.87
    assert perfect.dci_informativeness > 0.95
    information = np.array(perfect.mutual_information)
    assert information.shape == (N, 3) and information.min() >= 0 and information.max() <= 1
    assert information[[0, 1], [0, 1]] == pytest.approx(np.ones(2))


def test_positions_turned_by_45_degrees_count_in_the_group_alone(perfect):
    z = latents()
    turned = z.copy()
    turned[:, :2] = z[:, :2] @ np.array([[1, -1], [1, 1]]) / np.sqrt(2)
    found = factor_audit(turned, factors_of(z), PROBE)
    assert found.latent_names == ("x + y", "x + y", "", "shape", "", "")
    assert found.mig < 0.45 * perfect.mig and found.sap < 0.45 * perfect.sap
    assert found.mig_grouped > 0.9 and found.mig_grouped == pytest.approx(perfect.mig_grouped, abs=0.02)
    assert found.dci_disentanglement < 0.75 and found.dci_disentanglement_grouped > 0.97
    assert found.dci_completeness < 0.85 and found.dci_completeness_grouped > 0.96


def test_a_rotation_of_all_latents_scores_low():
    z = np.random.default_rng(0).standard_normal((COUNT, 12))
    found = factor_audit(z @ ortho_group.rvs(12, random_state=0), factors_of(z), PROBE)
    assert max(found.mig, found.mig_grouped, found.sap) < 0.2


def test_shuffled_factors_score_0_up_to_bias():
    found = factor_audit(np.random.default_rng(1).permutation(latents()), factors_of(latents()), PROBE)
    assert found.latent_names == ("",) * N
    assert max(getattr(found, name) for name in SCORES) < 0.05
    assert found.dci_informativeness < 0.02


def test_permuted_latents_permute_the_map_and_leave_the_scores(perfect):
    order = np.random.default_rng(2).permutation(N)
    found = factor_audit(latents()[:, order], factors_of(latents()), PROBE)
    assert found.mutual_information == tuple(perfect.mutual_information[i] for i in order)
    assert found.latent_names == tuple(perfect.latent_names[i] for i in order)
    for name in SCORES:
        assert getattr(found, name) == pytest.approx(getattr(perfect, name), abs=0.01)


def test_it_repeats_reads_tensors_and_survives_json(perfect):
    assert factor_audit(torch.from_numpy(latents()), factors_of(latents()), PROBE) == perfect
    record = json.loads(json.dumps(dataclasses.asdict(perfect)))
    assert from_record(FactorAudit, record, "audit") == perfect


def test_a_collapsed_generator_scores_0():
    z = latents()[:300]
    constant = [Factor("x", "continuous", np.full(300, 0.2)), Factor("shape", "categorical", np.ones(300, np.int64))]
    found = factor_audit(z, constant, PROBE)
    assert found.latent_names == ("",) * N
    assert not np.array(found.mutual_information).any()
    assert [getattr(found, name) for name in (*SCORES, "dci_informativeness")] == [0.0] * 8


def test_a_weak_trace_does_not_name_a_latent_and_a_strong_one_does():
    """The share of the entropy above bias is -log(1 - r²) / 2 log 20: 0.03 at r = 0.4, 0.096 at r = 0.66."""
    z = np.random.default_rng(3).standard_normal((8000, 3))
    x = 0.4 * z[:, 0] + 0.66 * z[:, 1]
    x = x + np.sqrt(1 - 0.4**2 - 0.66**2) * np.random.default_rng(4).standard_normal(8000)
    assert latent_names(z, [Factor("x", "continuous", x)]) == ("", "x", "")


@pytest.mark.parametrize("seed", range(5))
def test_few_images_do_not_name_latents_by_chance(seed):
    z = np.random.default_rng(seed).standard_normal((100, 20))
    shape = Factor("shape", "categorical", np.random.default_rng(seed + 99).integers(0, 3, 100))
    x = Factor("x", "continuous", np.random.default_rng(seed + 999).random(100))
    assert latent_names(z, [shape, x]) == ("",) * 20


def test_names_join_what_does_not_stand_out():
    z = np.random.default_rng(5).standard_normal((4000, 2))
    noise = np.random.default_rng(6).standard_normal((4000, 3))
    exact, close, far = (
        Factor(name, "continuous", z[:, 0] + scale * noise[:, i])
        for i, (name, scale) in enumerate((("a", 0.15), ("b", 0.2), ("c", 0.8)))
    )
    assert latent_names(z, [far, close, exact]) == ("b + a", "")
    assert latent_names(z, [far, exact]) == ("a", "")


def test_positions_of_each_object_are_grouped():
    def continuous(*names):
        return [Factor(name, "continuous", np.zeros(1)) for name in names]

    assert position_groups(continuous("y", "size", "x")) == (("x", "y"),)
    assert position_groups(continuous("x1", "y1", "x0", "y0", "x2", "hue")) == (("x0", "y0"), ("x1", "y1"))
    assert position_groups(continuous("x", "y0", "xs", "ys")) == ()
    assert position_groups([*continuous("x"), Factor("y", "categorical", np.zeros(1))]) == ()


def test_mistakes_are_refused():
    z = latents()
    with pytest.raises(UserError, match="a score of every factor, got none of x, y"):
        factor_audit(z, factors_of(z), {"shape": 1.0})
    with pytest.raises(UserError, match="one value for each of the 1999 latents, got 2000"):
        factor_audit(z[1:], factors_of(z), PROBE)
    with pytest.raises(UserError, match="n at least 2"):
        factor_audit(z[:, :1], factors_of(z), PROBE)
