import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from hessian_penalty.directions import principal_components
from hessian_penalty.directions.principal_components import StreamedComponents
from hessian_penalty.errors import UserError


def data(samples=200, dim=4, features=30, noise=0.5):
    """Latents with a mean, and activations with another: nonlinear, and noise in every feature."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(samples, dim, generator=rng, dtype=torch.float64) + 1
    weight = torch.randn(dim, features, generator=rng, dtype=torch.float64) * torch.linspace(3, 1, dim)[:, None]
    y = 10 + z @ weight + noise * torch.randn(samples, features, generator=rng, dtype=torch.float64)
    return z, y


def regressed(z, y, most):
    """Principal coordinates by scikit-learn, then least squares by NumPy."""
    coordinates = PCA(most, svd_solver="full").fit_transform(y.numpy())
    solution = np.linalg.lstsq(coordinates, z.numpy(), rcond=None)[0]
    return solution / np.linalg.norm(solution, axis=1, keepdims=True)


def streamed(z, y, most, *, block=32, rank=40):
    stream = StreamedComponents(z.mean(dim=0), rank=rank)
    for latents, activations in zip(z.split(block), y.split(block), strict=True):
        stream.add(latents, activations)
    return stream.directions(most).numpy()


def difference(found, expected):
    signs = np.sign((found * expected).sum(axis=1, keepdims=True))
    return np.abs(found * signs - expected).max()


@pytest.mark.parametrize("block", [1, 7, 32, 200])
@pytest.mark.parametrize("limit", [10, 2048])
def test_directions_are_the_regression_on_principal_coordinates(monkeypatch, limit, block):
    """Covariance and root alike; the root is not cut here, as 30 features have at most 30 components."""
    monkeypatch.setattr(principal_components, "EXACT_FEATURES", limit)
    z, y = data()
    assert difference(streamed(z, y, 4, block=block), regressed(z, y, 4)) < 1e-9


def test_a_cut_root_is_exact_for_as_many_components(monkeypatch):
    monkeypatch.setattr(principal_components, "EXACT_FEATURES", 10)
    z, y = data(noise=0.0)
    assert difference(streamed(z, y, 4, rank=4), regressed(z, y, 4)) < 1e-9


def test_a_cut_root_is_close_for_the_leading_components(monkeypatch):
    monkeypatch.setattr(principal_components, "EXACT_FEATURES", 10)
    z, y = data(noise=2.0)
    assert 1e-9 < difference(streamed(z, y, 4, rank=20), regressed(z, y, 4)) < 0.02


def test_memory_does_not_grow(monkeypatch):
    monkeypatch.setattr(principal_components, "EXACT_FEATURES", 10)
    z, y = data()
    stream = StreamedComponents(z.mean(dim=0), rank=6)
    stream.add(z[:100], y[:100])
    first = {name: tensor.shape for name, tensor in stream.tensors.items()}
    stream.add(z[100:], y[100:])
    assert {name: tensor.shape for name, tensor in stream.tensors.items()} == first
    assert (first["scatter"], stream.count, stream.features) == ((6, 30), 200, 30)


@pytest.mark.parametrize("limit", [10, 2048])
def test_components_that_are_rounding_are_left_out(monkeypatch, limit):
    monkeypatch.setattr(principal_components, "EXACT_FEATURES", limit)
    z, y = data(noise=0.0)
    assert streamed(z, y, 20).shape == (4, 4)


@pytest.mark.parametrize("limit", [10, 2048])
def test_refuses_constant_activations(monkeypatch, limit):
    monkeypatch.setattr(principal_components, "EXACT_FEATURES", limit)
    z, y = data()
    with pytest.raises(UserError, match="do not vary with the latents, so that they have no principal components"):
        streamed(z, torch.ones_like(y), 4)
