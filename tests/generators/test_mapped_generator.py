import pytest
import torch
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.mapped_generator import MappedGenerator
from hessian_penalty.generators.protocol import Generator


def networks(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(5, 3).to(dtype), nn.Sequential(nn.Linear(3, 12), nn.Unflatten(1, (3, 2, 2))).to(dtype)


def test_latents_are_mapped_normal_ones_and_a_call_is_the_synthesis():
    mapping, synthesis = networks()
    G = MappedGenerator(mapping, synthesis, 3, z_dim=5)
    w = G.sample_latents(4, torch.Generator().manual_seed(1))
    z = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(w, mapping(z))
    assert torch.equal(G(w), synthesis(w))
    assert G.function is synthesis
    assert G.latent_dim == 3
    assert isinstance(G, Generator)


def test_latents_have_no_gradient_and_leave_it_on():
    G = MappedGenerator(*networks(), 3, z_dim=5)
    assert not G.sample_latents(2).requires_grad
    assert torch.is_grad_enabled()


def test_moments_of_w():
    """w = W z + b: mean b, covariance W W^T; z-scores of 20,000 draws."""
    mapping, synthesis = networks()
    w = MappedGenerator(mapping, synthesis, 3, z_dim=5).sample_latents(20_000, torch.Generator().manual_seed(0))
    covariance = (mapping.weight @ mapping.weight.T).detach()
    z_score = (w.mean(dim=0) - mapping.bias.detach()) / (covariance.diagonal() / 20_000).sqrt()
    assert float(z_score.abs().max()) < 4
    variances = covariance.diagonal()[:, None] * covariance.diagonal() + covariance.square()  # of entries of w w^T
    assert float(((torch.cov(w.T) - covariance) / (variances / 20_000).sqrt()).abs().max()) < 4


def test_z_has_as_many_components_as_w_unless_said():
    assert MappedGenerator(torch.tanh, torch.sin, 4).sample_latents(2).shape == (2, 4)


@pytest.mark.parametrize(
    ("mapping", "latent_dim", "came"),
    [
        (lambda z: z[:, :2], 3, r"\(1, 3\) for 1 z, got \(1, 2\)"),
        (lambda z: z[:, None], 3, r"got \(1, 1, 3\)"),
        (lambda z: [z], 3, "got list"),
    ],
)
def test_a_mapping_to_something_else_is_refused(mapping, latent_dim, came):
    with pytest.raises(UserError, match=f"`mapping` must return latents of shape {came}" if "for" in came else came):
        MappedGenerator(mapping, torch.sin, latent_dim)
