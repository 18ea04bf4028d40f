import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from hessian_penalty.directions.directions import Directions
from hessian_penalty.errors import UserError
from hessian_penalty.reports.direction_images import MovedSamples, chosen_directions, direction_labels, placed_along


class Spy:
    """Images (N, 1, 8, 8) of value z0 / 4, of which it keeps latents and conditions, and knows how many are alive."""

    latent_dim = 4

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.labels: list[Any] = []
        self.alive: list[weakref.ref[Tensor]] = []
        self.most_alive = 0

    def sample_latents(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        return torch.randn(count, self.latent_dim, generator=rng)

    def sample_labels(self, count: int, rng: torch.Generator | None = None) -> Tensor:
        return torch.randint(0, 1000, (count,), generator=rng)

    def __call__(self, z: Tensor, labels: Any = None) -> Tensor:
        self.seen.append(z.clone())
        self.labels.append(labels)
        images = (z[:, :1, None, None] / 4).repeat(1, 1, 8, 8)
        self.alive = [reference for reference in self.alive if reference() is not None] + [weakref.ref(images)]
        self.most_alive = max(self.most_alive, len(self.alive))
        return images


class Pair(Spy):
    """Returns its latents beside the images."""

    def __call__(self, z: Tensor, labels: Any = None) -> Any:
        return super().__call__(z, labels), z


def turned(count: int = 4) -> Directions:
    square = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return Directions(torch.linalg.qr(square)[0].float()[:count])


def moved(G: Any, directions: Directions | None = None, **options: Any) -> MovedSamples:
    settings: dict[str, Any] = {"samples": 3, "rng": None, "batch_size": 64, "conditions": {}} | options
    return MovedSamples(G, directions or turned(), **settings)


def test_the_projection_is_replaced_and_the_rest_kept() -> None:
    rows, z = turned().matrix.double(), torch.randn(5, 4, dtype=torch.float64)
    points = placed_along(z, rows, torch.tensor([-3.0, 0.0, 0.5, 2.0]))
    assert points.shape == (4, 5, 4)
    for corner, position in enumerate([-3.0, 0.0, 0.5, 2.0]):
        coordinates = points[corner] @ rows.T  # float32 rows: orthonormal to 1e-7
        expected = (z @ rows.T).clone()
        expected[:, corner] = position
        assert (coordinates - expected).abs().max() < 1e-5


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64])
def test_batches_are_bounded_and_change_no_image(batch_size: int) -> None:
    G = Spy()
    samples = moved(G, batch_size=batch_size)
    points = samples.z + torch.arange(5.0)[:, None, None]
    images = torch.stack(list(samples.images(points)))
    assert images.shape == (5, 3, 1, 8, 8)
    assert torch.equal(images[..., 0, 0, 0], points[..., 0] / 4)
    assert max(len(z) for z in G.seen) <= batch_size
    assert sum(len(z) for z in G.seen) == 15


def test_images_are_made_when_they_are_asked_for() -> None:
    G = Spy()
    samples = moved(G, batch_size=3)
    images: Iterator[Tensor] = samples.images(samples.z.expand(50, -1, -1))
    for _ in range(10):
        next(images)
    assert len(G.seen) == 10
    for _ in images:
        pass
    assert G.most_alive <= 3


@pytest.mark.parametrize("batch_size", [2, 64])
def test_conditions_follow_their_samples(batch_size: int) -> None:
    G = Spy()
    labels = torch.tensor([10, 20, 30])
    samples = moved(G, batch_size=batch_size, conditions={"labels": labels})
    list(samples.images(samples.z.expand(4, -1, -1)))
    number = {float(z): int(label) for z, label in zip(samples.z[:, 0], labels, strict=True)}
    for z, given in zip(G.seen, G.labels, strict=True):
        assert [number[float(value)] for value in z[:, 0]] == given.tolist()


def test_random_conditions_are_drawn_for_each_sample_and_others_passed_on() -> None:
    G = Spy()
    few, many = (moved(G, samples=count, conditions={"labels": "random"}) for count in (2, 4))
    list(many.images(many.z[None]))
    list(few.images(few.z[None]))
    assert len(set(G.labels[0].tolist())) > 1
    assert torch.equal(G.labels[0][:2], G.labels[1])
    one = moved(G, conditions={"labels": 7})
    list(one.images(one.z[None]))
    assert set(G.labels[-1].tolist()) == {7}


def test_the_first_latents_do_not_depend_on_the_number_and_follow_the_seed() -> None:
    few, many = (moved(Spy(), samples=count).z for count in (2, 30))
    assert torch.equal(few, many[:2])
    other = moved(Spy(), samples=2, rng=torch.Generator().manual_seed(1)).z
    assert not torch.equal(few, other)
    assert torch.equal(few, moved(Spy(), samples=2, rng=torch.Generator().manual_seed(0)).z)


def test_noise_stands_still() -> None:
    def noisy(z: Tensor) -> Tensor:
        return torch.randn(len(z), 1, 4, 4)

    samples = moved(noisy)
    first, second = (torch.stack(list(samples.images(samples.z.expand(3, -1, -1)))) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0, 0], first[0, 1])


def test_large_images_are_averaged_down() -> None:
    def checkers(z: Tensor) -> Tensor:
        board = (torch.arange(600)[:, None] + torch.arange(300)) % 2 * 2.0 - 1
        return board.expand(len(z), 3, 600, 300)

    samples = moved(checkers)
    (images,) = samples.images(samples.z[None])
    assert images.shape == (3, 3, 200, 100)
    assert images.abs().max() < 0.2


def test_no_graph_is_built() -> None:
    network = torch.nn.Linear(4, 64)
    samples = moved(lambda z: network(z).unflatten(1, (1, 8, 8)))
    (images,) = samples.images(samples.z[None])
    assert not images.requires_grad


def test_labels_name_the_direction() -> None:
    assert direction_labels(Directions(torch.eye(3)), [2, 0]) == ["direction 2", "direction 0"]
    known = Directions(torch.eye(3), activeness=torch.tensor([0.3, 0.02, 0.0]))
    assert direction_labels(known, [1]) == ["direction 1\n0.020"]


def test_helpful_errors() -> None:
    directions = Directions(torch.eye(3))
    for wrong, told in (([], "none"), ([3], r"\[3\]"), ([-1], r"\[-1\]"), ([1, 1], r"\[1, 1\]")):
        with pytest.raises(UserError, match=rf"`indices` must name different directions, each in \[0, 2\], got {told}"):
            chosen_directions(directions, wrong)
    with pytest.raises(UserError, match="`directions` have 3 components, but the generator takes latents of 4"):
        moved(Spy(), directions)
    with pytest.raises(UserError, match="samples must be a finite number at least 1, got 0"):
        moved(Spy(), samples=0)
    with pytest.raises(UserError, match="batch_size must be a finite number at least 1, got 0"):
        moved(Spy(), batch_size=0)
    with pytest.raises(UserError, match="`classes` is neither an option here nor an argument of G"):
        moved(Spy(), conditions={"classes": 1})
    flat = moved(lambda z: z)
    with pytest.raises(UserError, match=r"must return one tensor of images \(N, C, H, W\), got \(3, 4\)"):
        list(flat.images(flat.z[None]))
    pair = moved(Pair())
    with pytest.raises(UserError, match=r"got \(3, 1, 8, 8\) and \(3, 4\)"):
        list(pair.images(pair.z[None]))
    whole = moved(lambda z: z.long()[:, :, None, None])
    with pytest.raises(UserError, match="output 0 of `G` must be a float32 or float64 tensor"):
        list(whole.images(whole.z[None]))
