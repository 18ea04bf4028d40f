import pytest
import torch

from hessian_penalty.directions.rotation import fold_second_moment, require_rotation, rotate_generator
from hessian_penalty.errors import UserError
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator


def random_rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize("normalize_latent", [True, False])
def test_rotated_latents_give_the_same_images(normalize_latent):
    torch.manual_seed(0)
    generator = (
        ProGANGenerator(ProGANConfig(6, (16, 8), normalize_latent=normalize_latent)).double().requires_grad_(False)
    )
    matrix = random_rotation(6).double()
    matrix = torch.linalg.qr(matrix)[0]
    rotated = rotate_generator(generator, matrix)
    w = torch.randn(20, 6, dtype=torch.float64)
    assert float((rotated(w) - generator(w @ matrix)).abs().max()) < 1e-12
    assert float((rotated(w) - generator(w)).abs().max()) > 1e-2


def test_one_latent_moves_along_one_direction():
    torch.manual_seed(0)
    generator, matrix = ProGANGenerator(ProGANConfig(6, (16, 8))), random_rotation(6)
    rotated = rotate_generator(generator, matrix)
    unit = torch.eye(6)[2:3]
    assert torch.allclose(rotated(unit), generator(matrix[2:3]), atol=1e-5)


def test_second_moments_follow_uncorrelated_gradients():
    """The mean square of rotated independent gradients, by a z-score."""
    rng, draws = torch.Generator().manual_seed(0), 20_000
    scale, matrix = torch.tensor([1.0, 2.0, 0.5]), random_rotation(3)
    gradients = torch.randn(draws, 3, generator=rng) * scale
    squares = (gradients @ matrix.T).square()
    expected = fold_second_moment(scale.square()[None], matrix)[0]
    score = (squares.mean(0) - expected) / (squares.std(0) / draws**0.5)
    assert float(score.abs().max()) < 4.5


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.eye(3)[:2], r"needs as many directions as latents \(3\), got 2"),
        (torch.tensor([[1.0, 0.0], [0.8, 0.6]]), "needs orthonormal directions"),
    ],
)
def test_refuses_what_is_no_rotation(matrix, message):
    with pytest.raises(UserError, match=message):
        require_rotation(matrix)
