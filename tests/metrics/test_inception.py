"""torch-fidelity is not installed here: a module with its interface of 0.3 and 0.4 stands in for it."""

import pickle
import sys
import types
from urllib.error import URLError

import pytest
import torch
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.inception import InceptionFeatures

ADDRESS = "https://example.org/weights-inception-2015-12-05-6726825d.pth"


@pytest.fixture
def torch_fidelity(monkeypatch):
    """Its module, whose extractor wants bytes and gives a tuple; and the arguments of every download."""
    theirs = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    downloads = []

    class FeatureExtractorInceptionV3(nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path=None, **kwargs):
            super().__init__()  # that of 0.3 stays in training mode
            assert features_list == ["2048"]
            theirs.load_state_dict_from_url(ADDRESS, progress=False)

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return (x.float().mean(dim=(2, 3)).repeat(1, 683)[:, :2048],)

    def download(url, **options):
        downloads.append((url, options))
        return {}

    theirs.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3
    theirs.load_state_dict_from_url = lambda *a, **k: pytest.fail("unpickled a download")
    theirs.URL_INCEPTION_V3 = ADDRESS
    package = types.ModuleType("torch_fidelity")
    package.feature_extractor_inceptionv3 = theirs
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", theirs)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    return downloads


def test_images_become_bytes_and_grey_ones_colour(torch_fidelity):
    images = torch.tensor([-1.0, 0.0, 1.0, 3.0]).reshape(4, 1, 1, 1).expand(4, 1, 8, 8)
    features = InceptionFeatures()(images)
    assert features.shape == (4, 2048)
    assert features[:, 5].tolist() == [0, 128, 255, 255]


def test_the_download_is_read_as_tensors_and_checked(torch_fidelity):
    InceptionFeatures()
    ((url, options),) = torch_fidelity
    assert url == ADDRESS
    assert options["weights_only"] is True and options["check_hash"] is True


def test_the_network_is_not_trained(torch_fidelity):
    assert not any(module.training for module in InceptionFeatures().modules())


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r"Inception-v3 needs the package torch-fidelity.*pip install"):
        InceptionFeatures()


def test_failed_download_says_where_the_file_goes(torch_fidelity, monkeypatch):
    def fail(url, **options):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    with pytest.raises(UserError, match=rf"could not be loaded.*no network.*{ADDRESS}.*checkpoints"):
        InceptionFeatures()


class Harmful:
    def __reduce__(self):
        return pytest.fail, ("unpickled a download",)


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", pickle.dumps(Harmful(), protocol=2)])
def test_a_file_of_something_else_is_told_and_runs_no_code(torch_fidelity, monkeypatch, tmp_path, content):
    """PyTorch's own reader, with what a user may have put there."""
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, progress, check_hash, **k: torch.load(path, **k)
    )
    with pytest.raises(UserError, match=r"could not be loaded \(the file holds something else\).*delete it first"):
        InceptionFeatures()
