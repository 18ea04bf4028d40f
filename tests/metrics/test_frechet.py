import sys

import numpy as np
import pytest
import scipy.linalg
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.frechet import few_images_note, frechet_distance


def normal(count, features, seed, *, mean=0.0):
    """Correlated normal draws, float64."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(features, features, generator=rng, dtype=torch.float64)
    return torch.randn(count, features, generator=rng, dtype=torch.float64) @ mixing + mean


def closed_form(first, second):
    """The formula itself, by scipy's matrix square root."""
    (m1, c1), (m2, c2) = ((x.mean(0).numpy(), np.cov(x.numpy(), rowvar=False)) for x in (first, second))
    return float(np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real))


def test_formula():
    first, second = normal(300, 6, 0), normal(200, 6, 1, mean=0.5)
    assert frechet_distance(first, second) == pytest.approx(closed_form(first, second), rel=1e-8)


def test_symmetric_zero_to_itself_and_a_shift_counts_squared():
    first, second, shift = normal(300, 4, 0), normal(200, 4, 1), torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert frechet_distance(first, second) == pytest.approx(frechet_distance(second, first), rel=1e-8)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(first, first + shift) == pytest.approx(25, rel=1e-8)


def test_single_precision_features_do_not_cost_digits():
    """Far from the origin, where sums of squares in float32 would leave nothing of the covariance."""
    first, second = (normal(300, 4, seed, mean=1000.0).float() for seed in (0, 1))
    assert frechet_distance(first, second) == pytest.approx(closed_form(first.double(), second.double()), rel=1e-6)


@pytest.mark.parametrize(("real", "fake", "kind"), [(1, 5, "reference"), (5, 1, "generated")])
def test_needs_two_images(real, fake, kind):
    with pytest.raises(UserError, match=f"A Fréchet distance needs at least 2 {kind} images, got 1"):
        frechet_distance(torch.randn(fake, 3), torch.randn(real, 3))


def test_features_of_two_extractors_are_refused():
    with pytest.raises(UserError, match="equal features of both sets, got 3 and 4 of an image"):
        frechet_distance(torch.randn(5, 3), torch.randn(5, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_of_a_diverged_generator_are_refused(value):
    broken = torch.randn(5, 3)
    broken[2, 1] = value
    with pytest.raises(UserError, match="needs finite features, got NaN or infinite ones of the generated images"):
        frechet_distance(broken, torch.randn(5, 3))
    with pytest.raises(UserError, match="of the reference images"):
        frechet_distance(torch.randn(5, 3), broken)


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(UserError, match=r"torchmetrics: pip install 'hessian-penalty\[features\]'"):
        frechet_distance(torch.randn(5, 3), torch.randn(5, 3))


def test_too_few_images_are_told():
    assert few_images_note(1281, 1280) is None
    assert "1,280 images with 1,280 features" in few_images_note(1280, 1280)
