"""The scale-free forms: nothing is won by shrinking activations or growing the code."""

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import HessianPenalty, hessian_penalty

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


Z, PROBES = randn(8, 4), randn(2, 8, 4, seed=1).sign()
GRADIENTS = pytest.mark.parametrize(
    "how", [{"gradient": "sparse"}, {"gradient": "dense"}, {"reduction": "mean"}, {"reduction": torch.median}]
)


@GRADIENTS
def test_scale_of_the_output_neither_changes_the_value_nor_has_a_gradient(blocks, how):
    c = torch.tensor(1.0, dtype=F64, requires_grad=True)
    outputs = lambda z: [c * a for a in blocks.activations(z)]  # noqa: E731
    plain = hessian_penalty(outputs, Z, probes=PROBES, **how)
    assert torch.autograd.grad(plain, c)[0] > 0.01  # the pull towards shrinking, 2 L_H
    value = hessian_penalty(outputs, Z, probes=PROBES, scale_free=True, **how)
    assert value > 0.01
    (pull,) = torch.autograd.grad(value, c)
    assert abs(pull) < 1e-10  # rounding: 1e-16 / epsilon^4, times epsilon^2 and the number of terms
    with torch.no_grad():
        c.fill_(1e-3)
    smaller = hessian_penalty(outputs, Z, probes=PROBES, scale_free=True, **how)
    torch.testing.assert_close(smaller, value.detach(), rtol=1e-8, atol=0)


def test_value_is_the_penalty_over_the_variance_of_each_output(blocks):
    corner = blocks.activations(Z + 0.1 * PROBES[0])
    elements = hessian_penalty(blocks.activations, Z, probes=PROBES, reduction="none")
    expected = sum(e.max() / a.var(dim=0).mean() for e, a in zip(elements, corner, strict=True))
    for gradient in ("sparse", "dense"):
        value = hessian_penalty(blocks.activations, Z, probes=PROBES, scale_free=True, gradient=gradient)
        torch.testing.assert_close(value, expected)


def test_chunks_do_not_change_the_scale(blocks):
    values = [
        hessian_penalty(blocks, Z, probes=PROBES, scale_free=True, reduction="mean", chunk_size=c)
        for c in (None, 16, 99)
    ]
    torch.testing.assert_close(values, [values[0]] * 3)


@GRADIENTS
def test_scale_of_the_code_neither_changes_the_value_nor_has_a_gradient(blocks, how):
    s = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def autoencoder_penalty(**options):
        return hessian_penalty(lambda z: blocks(z / s), Z * s, probes=PROBES, **how, **options)

    assert torch.autograd.grad(autoencoder_penalty(), s)[0] < -0.01  # the pull towards growth
    value = autoencoder_penalty(scale_epsilon=True)
    (pull,) = torch.autograd.grad(value, s)
    assert abs(pull) < 1e-10
    with torch.no_grad():
        s.fill_(100.0)
    torch.testing.assert_close(autoencoder_penalty(scale_epsilon=True).detach(), value.detach(), rtol=1e-6, atol=0)


def test_scaled_steps_measure_standardised_coordinates(blocks):
    spread = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=F64)
    z = Z / Z.std(dim=0) * spread
    standardised = hessian_penalty(lambda w: blocks(w * spread), z / spread, probes=PROBES)
    torch.testing.assert_close(hessian_penalty(blocks, z, probes=PROBES, scale_epsilon=True), standardised)


def test_training_loss_takes_both(blocks):
    options = {"scale_free": True, "scale_epsilon": True}
    loss = HessianPenalty(blocks, weight=1.0, **options)(Z, rng=torch.Generator().manual_seed(0))
    assert loss == hessian_penalty(blocks, Z, rng=torch.Generator().manual_seed(0), **options)


def test_training_with_it_does_not_shrink_the_activations():
    """A head whose only freedom is its scale: the plain penalty shrinks it, the scale-free one leaves it alone."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double().requires_grad_(False)
    scales = {}
    for scale_free in (False, True):
        c = torch.ones((), dtype=F64, requires_grad=True)
        optimizer = torch.optim.Adam([c], lr=0.02)
        for step in range(20):
            optimizer.zero_grad()
            probes = randn(2, 8, 4, seed=step).sign()
            hessian_penalty(lambda z: c * body(z), Z, probes=probes, scale_free=scale_free).backward()  # noqa: B023
            if scale_free:
                assert c.grad.abs() < 1e-10
                c.grad.zero_()  # Adam would blow rounding up to full steps
            optimizer.step()
        scales[scale_free] = c.item()
    assert scales[False] < 0.7 and scales[True] == 1.0


@pytest.mark.parametrize("gradient", ["sparse", "dense"])
def test_helpful_errors(gradient):
    options = {"scale_free": True, "gradient": gradient}
    with pytest.raises(ValueError, match="`scale_free` takes a variance over the batch: `z` needs 2 samples or more"):
        hessian_penalty(lambda z: z, Z[:1], **options)
    with pytest.raises(ValueError, match="that of output 1 of `G` is 0; a collapsed or constant output"):
        hessian_penalty(lambda z: [z, z * 0], Z, **options)
    with pytest.raises(ValueError, match=r"`scale_epsilon` takes a standard deviation .* 2 samples or more"):
        hessian_penalty(lambda z: z, Z[:1], scale_epsilon=True, gradient=gradient)
    with pytest.raises(ValueError, match=r"component\(s\) \[1, 3\] of `z` are constant"):
        hessian_penalty(lambda z: z, Z * torch.tensor([1.0, 0, 1, 0]), scale_epsilon=True, gradient=gradient)
