import sys

import pytest
import torch
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.features import EfficientNetFeatures
from hessian_penalty.metrics.frechet import FrechetDistance


class Flatten(nn.Module):
    """Features are the pixels themselves, so that the distance has a closed form."""

    name, num_features = "pixels", 3

    def forward(self, images):
        return images.flatten(1)


def gaussian_images(count, mean, deviation, seed):
    """Exactly the given mean and covariance deviation²·1 (whitened draws)."""
    x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (count - 1))).T
    return (mean + deviation * x).reshape(count, 3, 1, 1)


def test_gaussians_have_their_closed_form():
    """|μ1 - μ2|² + Σ (σ1 - σ2)² = 3·4 + 3·1."""
    distance = FrechetDistance(Flatten(), [gaussian_images(400, 0.0, 1.0, 0)])
    assert distance([gaussian_images(400, 2.0, 2.0, 1)]) == pytest.approx(15, rel=1e-9)


def test_reference_serves_many_and_batches_do_not_matter():
    real, fake = gaussian_images(400, 0.0, 1.0, 0), gaussian_images(300, 1.0, 1.0, 1)
    distance = FrechetDistance(Flatten(), real.split(37))
    first, other, again = distance([fake]), distance([real]), distance(fake.split(11))
    assert first == pytest.approx(3, rel=1e-9)
    assert other == pytest.approx(0, abs=1e-9)
    assert again == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize(("real", "fake", "kind"), [(1, 5, "reference"), (5, 1, "generated")])
def test_needs_two_images(real, fake, kind):
    with pytest.raises(UserError, match=f"needs at least 2 {kind} images, got 1"):
        FrechetDistance(Flatten(), [torch.randn(real, 3, 1, 1)])([torch.randn(fake, 3, 1, 1)])


def test_features_know_what_pictures_show():
    """Real ImageNet weights: a picture's features lie closer to its brighter copy's than to noise's."""
    extractor = EfficientNetFeatures()
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    disc = ((x.square() + y.square()) < 0.4).float().mul(1.4).sub(0.7).expand(1, 3, 64, 64)
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).mul(2).sub(1)
    features = extractor(torch.cat([disc, disc + 0.1, noise]))
    assert features.shape == (3, 1280)
    assert float((features[0] - features[1]).norm()) < 0.5 * float((features[0] - features[2]).norm())


def test_features_take_grey_and_any_size_and_each_image_alone():
    extractor = EfficientNetFeatures()
    grey = torch.rand(3, 1, 32, 32).mul(2).sub(1)
    assert torch.allclose(extractor(grey), extractor(grey.expand(3, 3, 32, 32)), atol=1e-5)
    assert torch.allclose(extractor(grey)[1:2], extractor(grey[1:2]), atol=1e-3)


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"pip install 'hessian-penalty\[features\]'"):
        EfficientNetFeatures()
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(UserError, match=r"torchmetrics: pip install 'hessian-penalty\[features\]'"):
        FrechetDistance(Flatten(), [torch.randn(3, 3, 1, 1)])
