import sys
import types
import warnings

import pytest
import torch
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.perceptual import EfficientNetDistance, LPIPSDistance, PerceptualDistance


@pytest.fixture(scope="module")
def distance():
    return EfficientNetDistance()


def noise(count, seed, channels=3, pixels=32):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, pixels, pixels, generator=rng).mul(2).sub(1)


def disc(shift, pixels=64):
    """A light disc on grey, `shift` pixels to the right."""
    y, x = torch.meshgrid(torch.arange(pixels), torch.arange(pixels), indexing="ij")
    inside = (x - pixels // 2 - shift).square() + (y - pixels // 2).square() < (pixels // 4) ** 2
    return inside.float().mul(1.2).sub(0.6).expand(1, 3, pixels, pixels)


def test_it_is_the_sum_over_stages_of_unit_activations(distance):
    """Read by hooks, in float64, at every block that comes before one of stride 2, and at the last."""
    blocks = list(distance.network._blocks)
    halve = [block._depthwise_conv.stride[0] == 2 for block in blocks[1:]]
    ends = [block for block, next_halves in zip(blocks, [*halve, True], strict=True) if next_halves]
    assert [block._project_conv.out_channels for block in ends] == [16, 24, 40, 112, 320]
    kept = []
    hooks = [block.register_forward_hook(lambda _, __, output: kept.append(output.double())) for block in ends]
    a, b = noise(2, 0, pixels=64), noise(2, 1, pixels=64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for images in (a, b):
        distance.network.extract_features(((images + 1) / 2 - mean[:, None, None]) / std[:, None, None])
    for hook in hooks:
        hook.remove()
    expected = torch.zeros(2, dtype=torch.float64)
    for first, second in zip(kept[:5], kept[5:], strict=True):
        difference = first / first.norm(dim=1, keepdim=True) - second / second.norm(dim=1, keepdim=True)
        expected += difference.square().sum(dim=1).mean(dim=(1, 2))
    assert torch.allclose(distance(a, b).double(), expected, rtol=1e-5)


def test_zero_for_equal_images_symmetric_and_bounded(distance):
    a, b = noise(3, 0), noise(3, 1)
    assert distance(a, a).tolist() == [0.0, 0.0, 0.0]
    assert torch.equal(distance(a, b), distance(b, a))
    assert float(distance(a, b).min()) > 0.1
    assert float(distance(a, b).max()) < 20


def test_it_sees_how_far_something_moved(distance):
    """A pixel, eight pixels, then another picture altogether."""
    near, far, other = (distance(disc(0), image).item() for image in (disc(1), disc(8), noise(1, 0, pixels=64)))
    assert 2 * near < far < other / 2


def test_each_pair_on_its_own_grey_any_size_and_no_graph(distance):
    a, b = noise(3, 0, channels=1).requires_grad_(), noise(3, 1, channels=1)
    together = distance(a, b)
    assert together.shape == (3,)
    assert not together.requires_grad
    assert torch.allclose(together[1:2], distance(a[1:2], b[1:2]), rtol=1e-4)
    assert torch.allclose(together, distance(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)), rtol=1e-6)
    assert torch.allclose(together, distance(a.double(), b.double()), rtol=1e-6)


def test_values_beyond_the_range_are_not_clipped(distance):
    light = torch.ones(1, 3, 64, 64)
    assert float(distance(light, 1.2 * light)) > 1e-4


@pytest.fixture
def seen(distance):
    """What enters the network, in [-1, 1] again."""
    inputs = []
    hook = distance.network._conv_stem.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    yield lambda: [2 * (x * distance.std + distance.mean) - 1 for x in inputs]
    hook.remove()


def test_shrinking_smooths_first(distance, seen):
    """Stripes of period four are grey at a quarter of the size; sampled unsmoothed they would be white."""
    stripes = torch.tensor([-1.0, 1.0, 1.0, -1.0]).repeat(64).expand(1, 3, 256, 256)
    distance(stripes, -stripes)
    for shrunk in seen():
        assert shrunk.shape == (1, 3, 64, 64)
        assert float(shrunk[..., 1:-1].abs().max()) < 1e-5


def test_growing_is_bilinear(distance, seen):
    """Of two neighbours a quarter and three quarters; beyond the outermost there is nothing to mix with."""
    image = noise(1, 0)
    distance(image, image)
    row = seen()[0][:, :, 0]
    first, second = image[:, :, 0, 0], image[:, :, 0, 1]
    assert torch.allclose(row[..., 0], first, atol=1e-5)
    assert torch.allclose(row[..., 1], 0.75 * first + 0.25 * second, atol=1e-5)


def test_input_pixels_are_what_the_network_sees():
    distance = EfficientNetDistance(96)
    shapes = []
    distance.network._conv_stem.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    distance(noise(2, 0), noise(2, 1))
    assert shapes == [(2, 3, 96, 96)] * 2
    assert (distance.name, distance.input_pixels) == ("efficientnet-lite0", 96)
    assert isinstance(distance, PerceptualDistance)


def test_errors_of_the_arguments(distance):
    with pytest.raises(UserError, match=r"input_pixels must be a finite number at least 32, got 31"):
        EfficientNetDistance(31)
    with pytest.raises(UserError, match=r"images of 1 \(grey\) or 3 \(RGB\) channels, got 2"):
        distance(noise(1, 0, channels=2), noise(1, 1, channels=2))


class FakeLPIPS(nn.Module):
    """Called as lpips 0.1.4 is: (N, 1, 1, 1) of images in [-1, 1]; here their mean squared difference."""

    def __init__(self, pretrained=True, net="alex", version="0.1", lpips=True, verbose=True):
        super().__init__()
        warnings.warn("The parameter 'pretrained' is deprecated", UserWarning, stacklevel=1)
        assert (pretrained, net, version, lpips, verbose) == (True, "vgg", "0.1", True, False)
        self.weight = nn.Parameter(torch.ones(()))
        self.shapes = []

    def forward(self, in0, in1, retPerLayer=False, normalize=False):
        assert not self.training and not retPerLayer and not normalize
        self.shapes.append(tuple(in0.shape))
        return self.weight * (in0 - in1).square().mean(dim=(1, 2, 3), keepdim=True)


def fake_lpips(monkeypatch, constructor):
    module = types.ModuleType("lpips")
    module.LPIPS = constructor
    monkeypatch.setitem(sys.modules, "lpips", module)


def test_lpips_is_called_as_its_package_wants(monkeypatch):
    fake_lpips(monkeypatch, FakeLPIPS)
    distance = LPIPSDistance()
    a, b = torch.zeros(2, 1, 32, 32), torch.tensor([0.5, -1.0])[:, None, None, None].expand(2, 1, 32, 32)
    found = distance(a, b)
    assert found.tolist() == pytest.approx([0.25, 1.0])
    assert not found.requires_grad
    assert distance.network.shapes == [(2, 3, 256, 256)]
    assert (distance.name, distance.input_pixels) == ("lpips-vgg16", 256)
    assert isinstance(distance, PerceptualDistance)
    assert LPIPSDistance(64).input_pixels == 64


def test_lpips_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match=r"LPIPS needs the package lpips, .*pip install lpips"):
        LPIPSDistance()
    with pytest.raises(UserError, match=r"input_pixels must be a finite number at least 32, got 16"):
        LPIPSDistance(16)


def test_torchvision_that_does_not_fit_is_told(monkeypatch, tmp_path):
    (tmp_path / "lpips.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    with pytest.raises(UserError, match=r"cannot be imported \(operator torchvision::nms does not exist\)"):
        LPIPSDistance()


@pytest.mark.parametrize("error", [OSError("<urlopen error timed out>"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_had(monkeypatch, error):
    def fails(**_):
        raise error

    fake_lpips(monkeypatch, fails)
    with pytest.raises(UserError, match=rf"could not be loaded \({error}\).*vgg16-397923af.pth .* into .*checkpoints"):
        LPIPSDistance()
