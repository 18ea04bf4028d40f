"""An autoencoder, whose code has no scale of its own: what the penalty falls by, and what the scale-free form does."""

import copy

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import HessianPenalty, hessian_penalty

F64 = torch.float64
SCALE_FREE = {"scale_free": True, "scale_epsilon": True}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


IMAGES = torch.tanh(randn(128, 3) @ randn(3, 24, seed=1)) @ randn(24, 12, seed=2) / 5  # three factors, twelve pixels
PROBES = randn(2, 128, 3, seed=3).sign()


def train(networks, steps, **penalty):
    encoder, decoder = networks
    regularizer = HessianPenalty(decoder, reduction="mean", **penalty)
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(0)
    for _ in range(steps):
        optimizer.zero_grad()
        code = encoder(IMAGES)
        loss = (decoder(code) - IMAGES).square().mean() + regularizer(code, rng=rng)
        loss.backward()
        optimizer.step()
    return networks


@pytest.fixture(scope="module")
def trained():
    """An encoder and a decoder, trained without the penalty."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 3))
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 12))
    return train(nn.ModuleList([encoder, decoder]).double(), steps=150, weight=0.0)


@torch.no_grad()
def measured(networks, **options):
    encoder, decoder = networks
    code = encoder(IMAGES)
    return {
        "penalty": float(hessian_penalty(decoder, code, reduction="mean", probes=PROBES)),
        "scale-free penalty": float(hessian_penalty(decoder, code, reduction="mean", probes=PROBES, **SCALE_FREE)),
        "code": float(code.std(dim=0).mean()),
        "images": float(decoder(code).std(dim=0).mean()),
        "error": float((decoder(code) - IMAGES).square().mean()),
    }


def test_plain_penalty_falls_by_growth_of_the_code(trained):
    before, after = (measured(n) for n in (trained, train(copy.deepcopy(trained), steps=200, weight=1.0)))
    assert after["penalty"] < before["penalty"] / 10
    assert after["code"] > 1.5 * before["code"]
    assert after["scale-free penalty"] > before["scale-free penalty"]  # in units of the code nothing is won
    assert after["error"] < before["error"]


def test_scale_free_penalty_falls_and_the_scales_stay(trained):
    tuned = train(copy.deepcopy(trained), steps=200, weight=0.1, **SCALE_FREE)
    before, after = measured(trained), measured(tuned)
    assert after["scale-free penalty"] < before["scale-free penalty"] / 3
    assert after["code"] == pytest.approx(before["code"], rel=0.15)
    assert after["images"] == pytest.approx(before["images"], rel=0.05)
    assert after["error"] < before["error"]


def rescaled_penalty(networks, of_code, of_images, **options):
    encoder, decoder = networks
    code = encoder(IMAGES) * of_code
    decode = lambda z: of_images * decoder(z / of_code)  # noqa: E731
    return hessian_penalty(decode, code, reduction="mean", probes=PROBES, **options)


def test_rescaling_code_and_images_changes_nothing(trained):
    units = torch.ones(3, dtype=F64, requires_grad=True), torch.ones((), dtype=F64, requires_grad=True)
    plain = torch.autograd.grad(rescaled_penalty(trained, *units), units)
    assert (plain[0] < -1e-3).all() and plain[1] > 1e-3  # towards a larger code and fainter images
    value = rescaled_penalty(trained, *units, **SCALE_FREE)
    assert value > 0.01
    for pull in torch.autograd.grad(value, units):
        assert pull.abs().max() < 1e-10  # rounding: 1e-16 / epsilon^4, and the number of terms
    for of_code, of_images in (([1e3, 1e3, 1e3], 1.0), ([1.0, 1.0, 1.0], 1e-3), ([0.02, 1.0, 50.0], 7.0)):
        other = rescaled_penalty(trained, torch.tensor(of_code, dtype=F64), torch.tensor(of_images), **SCALE_FREE)
        torch.testing.assert_close(other, value, rtol=1e-8, atol=0)


def test_gradient_has_no_part_along_the_scales_of_the_layers(trained):
    """Growing the code by the encoder's last layer and the decoder's first, or the images by the decoder's last."""
    (*_, code_layer), (first, _, image_layer) = trained

    def pulls(**options):
        penalty = hessian_penalty(trained[1], trained[0](IMAGES), reduction="mean", probes=PROBES, **options)
        weights = [code_layer.weight, code_layer.bias, first.weight, image_layer.weight, image_layer.bias]
        found = torch.autograd.grad(penalty, weights, allow_unused=True)  # a bias of the images drops out
        along = [0.0 if g is None else (g * w).sum().item() for g, w in zip(found, weights, strict=True)]
        return along[0] + along[1] - along[2], along[3] + along[4], penalty.item()

    growth, fading, value = pulls()
    assert growth == pytest.approx(-4 * value, rel=0.2) and fading == pytest.approx(2 * value)  # L_H as s^-4, as c^2
    growth, fading, value = pulls(**SCALE_FREE)
    assert abs(growth) < 1e-10 and abs(fading) < 1e-10 and value > 0.01
