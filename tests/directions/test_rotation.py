import re

import pytest
import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.folding import fold_second_moment
from hessian_penalty.directions.rotated_generator import RotatedGenerator
from hessian_penalty.directions.rotation import (
    require_rotation,
    rotate_generator,
    rotation_is_free,
)
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
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


def test_directions_of_a_function_are_taken():
    matrix = random_rotation(4)
    rotated = rotate_generator(lambda z, power: z[:, :, None, None] ** power, Directions(matrix), power=3)
    assert isinstance(rotated, RotatedGenerator)
    w = torch.randn(5, 4)
    assert torch.allclose(rotated(w, power=3).flatten(1), (w @ matrix) ** 3, atol=1e-5)


def test_refuses_to_rotate_by_what_is_no_rotation():
    with pytest.raises(UserError, match="needs as many directions as latents"):
        rotate_generator(torch.sin, torch.eye(3)[:2])


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
        (torch.full((2, 2), torch.nan), "needs orthonormal directions"),
    ],
)
def test_refuses_what_is_no_rotation(matrix, message):
    with pytest.raises(UserError, match=message):
        require_rotation(matrix)


def drawing(sample, n):
    return FunctionGenerator(torch.sin, n, lambda count, rng: sample(count, n, rng))


def gaussian(count, n, rng):
    return torch.randn(count, n, generator=rng)


def uniform(count, n, rng):
    return 2 * torch.rand(count, n, generator=rng) - 1


def truncated(count, n, rng):
    return torch.nn.init.trunc_normal_(torch.empty(count, n), a=-2, b=2, generator=rng)


def sphere(count, n, rng):
    return torch.nn.functional.normalize(gaussian(count, n, rng), dim=1)


def student(count, n, rng):
    """Long tails, the same in all directions."""
    return gaussian(count, n, rng) / gaussian(count, 5, rng).norm(dim=1, keepdim=True)


def laplace(count, n, rng):
    u = uniform(count, n, rng)
    return -u.sign() * torch.log1p(-u.abs())


def correlated(count, n, rng):
    z = gaussian(count, n, rng)
    return z + 0.3 * z.roll(1, dims=1)


def uneven(count, n, rng):
    return gaussian(count, n, rng) * torch.linspace(1, 1.2, n)


def shifted(count, n, rng):
    return gaussian(count, n, rng) + 0.1


@pytest.mark.parametrize("n", [1, 2, 12, 64])
@pytest.mark.parametrize("sample", [gaussian, sphere, student])
def test_rotation_is_free_where_no_rotation_changes_the_distribution(sample, n):
    assert rotation_is_free(drawing(sample, n), torch.Generator().manual_seed(1)) is None


def test_normal_latents_are_not_refused_by_chance():
    rng = torch.Generator().manual_seed(0)
    assert all(rotation_is_free(drawing(gaussian, 16), rng) is None for _ in range(20))


@pytest.mark.parametrize("n", [2, 12, 64])
@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (
            uniform,
            r"look uniform, so that turned ones lie in a rotated cube \(kurtosis 1\.8\d of a component, [23]\.\d+ of",
        ),
        (truncated, r"shorter tails along components .* \(kurtosis 2\.3\d of a component"),
        (laplace, "longer tails along components"),
        (correlated, "correlated components"),
        (uneven, r"differ in the size of components \(root mean square from \S+ to 1\.[12]\d*\)"),
        (shifted, r"a mean that is not 0 \(up to 0\.1"),
    ],
)
def test_rotation_is_not_free_elsewhere(sample, message, n):
    text = rotation_is_free(drawing(sample, n), torch.Generator().manual_seed(1))
    assert text is not None and text.startswith("The latents ")
    assert "makes images that the generator does not make" in text
    assert re.search(message, text), text


def test_one_uniform_latent_only_changes_its_sign():
    assert rotation_is_free(drawing(uniform, 1), torch.Generator().manual_seed(0)) is None


def test_refuses_latents_that_are_not_finite():
    G = drawing(lambda count, n, rng: torch.full((count, n), torch.nan), 3)
    with pytest.raises(UserError, match="`sample_latents` of FunctionGenerator draws latents that are not finite"):
        rotation_is_free(G, torch.Generator())
