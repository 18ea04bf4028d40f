import pytest
import torch
import torch.nn.functional as F

from hessian_penalty.training import wasserstein


def images(seed, size=4):
    return torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_losses_are_differences_of_means():
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([0.5, -0.5])
    assert float(wasserstein.critic_loss(real, fake)) == -2.0
    assert float(wasserstein.generator_loss(fake)) == 0.0
    assert float(wasserstein.drift(real)) == 5.0


def test_a_linear_critic_has_the_penalty_of_its_slope():
    slope = images(0)[0]
    found = wasserstein.gradient_penalty(lambda x: (x * slope).sum(dim=(1, 2, 3)), images(1), images(2))
    assert found.item() == pytest.approx((float(slope.norm()) - 1) ** 2, rel=1e-12)


def test_gradients_are_taken_between_the_images():
    """D(x) = ‖x‖²/2 has the gradient x: with fakes = -reals it is (1 - 2u) x, u the same in the whole image."""
    reals = images(1)
    rng = torch.Generator().manual_seed(5)
    found = wasserstein.gradient_penalty(lambda x: x.square().sum(dim=(1, 2, 3)) / 2, reals, -reals, rng=rng)
    u = torch.rand(6, 1, 1, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    norms = ((1 - 2 * u) * reals).flatten(1).norm(dim=1)
    assert found.item() == pytest.approx(float((norms - 1).square().mean()), rel=1e-12)


def test_small_images_are_measured_as_if_they_were_enlarged():
    """The published form: images repeated to the full size, which the critic averages down before it reads them."""

    def critic(x):
        return (x.square() * images(9)[0]).sum(dim=(1, 2, 3)).tanh()

    def enlarged(x):
        return x.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)

    full = wasserstein.gradient_penalty(
        lambda x: critic(F.avg_pool2d(x, 8)), enlarged(images(1)), enlarged(images(2)),
        rng=torch.Generator().manual_seed(4),
    )  # fmt: skip
    small = wasserstein.gradient_penalty(
        critic, images(1), images(2), pixel_size=8.0, rng=torch.Generator().manual_seed(4)
    )
    assert small.item() == pytest.approx(full.item(), rel=1e-10)


def test_the_penalty_teaches_the_critic():
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    slope = images(0)[0] / images(0)[0].norm()
    wasserstein.gradient_penalty(lambda x: scale * (x * slope).sum(dim=(1, 2, 3)), images(1), images(2)).backward()
    assert float(scale.grad) == pytest.approx(2 * (3 - 1))
