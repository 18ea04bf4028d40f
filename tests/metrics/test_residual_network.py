import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.residual_network import ResidualNetwork, train_network


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_power_of_two_from_8(size, channels):
    network = ResidualNetwork(channels, size, 5, generator())
    assert network(torch.randn(3, channels, size, size)).shape == (3, 5)
    assert network.layers[-1].in_features == (16 if size == 8 else 32) * 4 * 4


@pytest.mark.parametrize("size", [4, 12, 48, 0])
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError, match=f"a power of two from 8 pixels, got {size} pixels"):
        ResidualNetwork(3, size, 5, generator())


def test_weights_are_those_of_the_generator_and_global_random_numbers_stay():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, again, other = (ResidualNetwork(3, 16, 5, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_each_image_counts_alone_in_evaluation():
    network = ResidualNetwork(3, 16, 5, generator()).eval()
    images = torch.randn(6, 3, 16, 16, generator=generator(1))
    assert torch.allclose(network(images)[2:3], network(images[2:3]), atol=1e-5)


def dots(count):
    """A light pixel anywhere on 16x16, and where it is: which a network without a sense of place cannot tell."""
    places = torch.randint(16, (count, 2), generator=generator(1))
    images = torch.zeros(count, 1, 16, 16)
    images[torch.arange(count), 0, places[:, 0], places[:, 1]] = 1.0
    return images, places / 7.5 - 1


@pytest.fixture(scope="module")
def trained():
    """A network that learned 400 of 600 dots, and the calls of its progress."""
    images, places = dots(600)
    network, calls, rng = ResidualNetwork(1, 16, 2, generator()), [], generator()

    with torch.no_grad():  # a caller's choice for its own computing
        train_network(
            network, lambda rows: F.mse_loss(network(images[rows]), places[rows]), 400, images_seen=400 * 16,
            batch_size=32, learning_rate=1e-2, rng=rng, progress=lambda *done: calls.append(done),
        )  # fmt: skip
    return network, calls


def test_learns_places(trained):
    images, places = dots(600)
    with torch.no_grad():
        found = trained[0](images[400:])
    error = (found - places[400:]).square().mean() / places.var()
    assert float(error) < 0.1


def test_ends_in_evaluation_mode_and_tells_progress(trained):
    network, calls = trained
    assert not network.training
    assert calls == [(step, 200) for step in range(1, 201)]


class Recorder(nn.Module):
    """A parameter without influence, the rows that were asked for and the moves of the parameter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.rows, self.weights = [], []

    def loss(self, rows):
        self.rows.append(rows)
        self.weights.append(self.weight.item())
        return self.weight


def recorded(count, images_seen, batch_size=4, seed=0):
    recorder = Recorder()
    train_network(
        recorder, recorder.loss, count, images_seen=images_seen, batch_size=batch_size, learning_rate=0.1,
        rng=generator(seed),
    )  # fmt: skip
    return recorder


def test_rounds_see_every_row_once_but_for_what_fills_no_batch():
    rows = recorded(10, 24).rows
    assert [len(batch) for batch in rows] == [4] * 6
    rounds = [torch.cat(rows[start : start + 2]).tolist() for start in (0, 2, 4)]
    assert all(len(set(of_round)) == 8 and set(of_round) < set(range(10)) for of_round in rounds)
    assert rounds[0] != rounds[1]


def test_rows_are_those_of_the_generator():
    first, again, other = (torch.stack(recorded(10, 24, seed=seed).rows) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_batch_is_no_larger_than_the_data():
    assert [sorted(batch.tolist()) for batch in recorded(3, 7, batch_size=64).rows] == [[0, 1, 2]] * 2


def test_the_learning_rate_rises_and_falls_to_0():
    """Adam moves a parameter of constant gradient by the learning rate: 0.1 · min(step / 15, 1) · cosine."""
    weights = torch.tensor(recorded(4, 400).weights, dtype=torch.float64)
    moves = -weights.diff()
    expected = [0.1 * min((i + 1) / 15, 1) * (1 + math.cos(math.pi * i / 100)) / 2 for i in range(99)]
    # weight decay takes at most a hundredth of the move, for weights of at most 5: 0.01 · 5
    assert torch.allclose(moves, torch.tensor(expected, dtype=torch.float64), rtol=0.08, atol=1e-6)


def test_a_loss_that_is_not_finite_is_refused():
    network = ResidualNetwork(1, 8, 2, generator())
    images = torch.full((4, 1, 8, 8), math.nan)
    with pytest.raises(UserError, match=r"The loss is nan at step 1 of training a network; check the images"):
        train_network(
            network, lambda rows: network(images[rows]).mean(), 4, images_seen=8, batch_size=4, learning_rate=0.1,
            rng=generator(),
        )  # fmt: skip


def test_one_row_is_too_few():
    with pytest.raises(UserError, match="count must be a finite number at least 2, got 1"):
        recorded(1, 8)
