import pytest
import torch

from hessian_penalty.directions import search_state
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.directions.voynov import Reconstructor, VoynovSearch
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator

QUICK = VoynovSearch(steps=8, learning_rate=1e-3, batch_size=4)


class Blocks:
    """8-pixel images: each latent lights two columns of its own."""

    def __init__(self, latent_dim=3, channels=1):
        self.latent_dim, self.channels = latent_dim, channels

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng)

    def __call__(self, z):
        columns = torch.tanh(z / 3).repeat_interleave(2, dim=1)
        columns = torch.nn.functional.pad(columns, (0, 8 - columns.shape[1]))
        return columns[:, None, None, :].expand(-1, self.channels, 8, -1)


def space_of(G, subspace=None, **conditions):
    return Space(G, subspace_rows(G, subspace), conditions)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_directions_are_told_apart():
    """Chance is a third; always guessing a shift of 0 errs by 3 on the mean."""
    search = VoynovSearch(steps=160, learning_rate=2e-3)
    found = search.search(space_of(Blocks()), rng=seeded())
    assert found.notes["losses"][-1] < 0.5 * found.notes["losses"][0]
    assert len(found.notes["losses"]) == 20
    assert found.notes["accuracy"] > 0.7
    assert found.notes["shift_error"] < 2.5
    assert found.notes["evaluations"] == 2 * 32 * 160


def test_the_matrix_learns_too():
    """The third latent does nothing; from a basis where all rows hold some of it, one row takes most of it."""

    class Half(Blocks):
        def __call__(self, z):
            return super().__call__(z[:, :2])

    start = VoynovSearch(steps=1).search(space_of(Half()), rng=seeded()).rows
    found = VoynovSearch(steps=250, learning_rate=5e-3).search(space_of(Half()), rng=seeded()).rows
    assert float(start[:, 2].abs().max()) < 0.85
    assert float(found[:, 2].abs().max()) > 0.95


@pytest.mark.parametrize("orthonormal", [True, False])
def test_rows_are_unit_vectors_in_the_subspace(orthonormal):
    search = VoynovSearch(steps=5, learning_rate=0.1, batch_size=4, orthonormal=orthonormal)
    span = torch.randn(2, 3, generator=seeded(), dtype=torch.float64)
    rows = search.search(space_of(Blocks(), span), rng=seeded()).rows
    products = rows @ rows.T
    assert torch.allclose(products.diagonal(), torch.ones(2, dtype=torch.float64), atol=1e-12)
    assert (abs(float(products[0, 1])) < 1e-12) == orthonormal
    inside = torch.linalg.lstsq(span.T, rows.T).solution
    assert torch.allclose(span.T @ inside, rows.T, atol=1e-12)


@pytest.mark.parametrize("orthonormal", [True, False])
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch, orthonormal):
    """To the last bit, what the reconstructor learnt and the state of the random numbers included."""
    monkeypatch.setattr(search_state, "SECONDS_BETWEEN_SAVES", 0.0)
    search = VoynovSearch(steps=8, learning_rate=1e-3, batch_size=4, orthonormal=orthonormal)

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    space, whole_rng, rng = space_of(Blocks()), seeded(), seeded()
    whole = search.search(space, rng=whole_rng)
    with pytest.raises(KeyboardInterrupt):
        search.search(space, rng=seeded(), progress=interrupt, state=SearchState(tmp_path / "state", {}))
    seen = []
    state = SearchState(tmp_path / "state", {})
    resumed = search.search(space, rng=rng, progress=lambda *done: seen.append(done), state=state)
    assert seen == [(6, 8), (7, 8), (8, 8)]
    assert torch.equal(resumed.rows, whole.rows)
    assert resumed.notes == whole.notes
    assert torch.equal(rng.get_state(), whole_rng.get_state())


def test_only_rng_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    first = QUICK.search(space_of(Blocks()), rng=seeded())
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = QUICK.search(space_of(Blocks()), rng=seeded())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.rows, second.rows)
    assert first.notes == second.notes


def test_shifts_are_along_one_direction_each_and_not_near_zero():
    pairs = []

    class Watched(Blocks):
        def sample_latents(self, count, rng=None):
            return torch.zeros(count, 3)

        def __call__(self, z):
            pairs.append(z.detach())
            return super().__call__(z)

    VoynovSearch(steps=1, batch_size=400, init="coordinates").search(space_of(Watched()), rng=seeded())
    still, moved = pairs[-2:]
    assert not bool(still.any())
    assert torch.equal((moved != 0).sum(dim=1), torch.ones(400, dtype=torch.int64))
    amounts = moved.sum(dim=1)
    assert float(amounts.abs().max()) <= 6.0
    assert float(amounts.abs().min()) == 0.5
    assert abs(float(amounts.mean())) < 4 * 3.5 / 400**0.5
    assert bool((moved != 0).sum(dim=0).gt(90).all())


class Labelled(Blocks):
    """Has its labels written into its latents, to see that they belong together."""

    def sample_latents(self, count, rng=None):
        z = super().sample_latents(count, rng)
        z[:, 2] = torch.arange(count)
        return z

    def sample_labels(self, count, rng):
        return torch.arange(count)

    def __call__(self, z, labels=None):
        assert torch.equal(z[:, 2].detach().round().long(), labels)
        return super().__call__(z)


def test_conditions_follow_their_samples():
    found = QUICK.search(space_of(Labelled(), [0, 1], labels="random"), rng=seeded())
    assert found.rows.shape == (2, 3)


def test_one_dimension_has_one_direction():
    found = QUICK.search(space_of(Blocks(), [1]), rng=seeded())
    assert torch.equal(found.rows.abs(), torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))
    assert found.notes["accuracy"] == 1.0


def test_the_generator_is_left_as_it_was():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 64), torch.nn.Tanh(), torch.nn.Unflatten(1, (1, 8, 8)))
    with torch.no_grad():
        QUICK.search(space_of(FunctionGenerator(network, 3)), rng=seeded())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())


def test_works_in_float64_and_from_the_entry_point():
    G = FunctionGenerator(
        lambda z: Blocks()(z), sample=lambda count, rng: torch.randn(count, 3, generator=rng, dtype=torch.float64)
    )
    assert QUICK.search(space_of(G), rng=seeded()).rows.shape == (3, 3)
    found = discover(Blocks(channels=3), method=QUICK)
    assert found.provenance["method"] == "voynov"
    assert len(found) == 3


@pytest.mark.parametrize("size", [8, 9, 16, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_reconstructor_takes_any_image(size, channels):
    network = Reconstructor(2 * channels, size, 4)
    pixels = []
    network.features.register_forward_hook(lambda module, inputs, output: pixels.append(output.shape[2:]))
    logits, shift = network(torch.randn(2, 2 * channels, size, size, generator=seeded()))
    assert logits.shape == (2, 4)
    assert shift.shape == (2,)
    assert all(2 <= side <= 3 for side in pixels[0])


def generator(function):
    return space_of(FunctionGenerator(function, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QUICK.search(generator(lambda z: z), rng=seeded()), r"needs images .*got the shape \(2, 3\).*'hess"),
        (lambda: QUICK.search(generator(lambda z: Blocks()(z) / 0.0), rng=seeded()), "not finite"),
        (lambda: QUICK.search(generator(lambda z: Blocks()(z).detach()), rng=seeded()), "gives no gradient"),
        (
            lambda: QUICK.search(generator(lambda z: Blocks()((z - z.detach()).sqrt() + z)), rng=seeded()),
            "gradient is not finite at step 1 of the search .*lower `learning_rate`",
        ),
        (lambda: VoynovSearch(steps=0), "steps must be a finite number at least 1, got 0"),
        (lambda: VoynovSearch(learning_rate=-1.0), "learning_rate must be .* at least 0, got -1"),
        (lambda: VoynovSearch(batch_size=1), "batch_size must be .* at least 2, got 1"),
        (lambda: VoynovSearch(largest_shift=0.0), "largest_shift must be .* at least 1e-06, got 0"),
        (lambda: VoynovSearch(smallest_shift=7.0), r"smallest_shift must be .* in \[0, 6\], got 7"),
        (lambda: VoynovSearch(shift_weight=-1.0), "shift_weight must be .* at least 0, got -1"),
        (lambda: VoynovSearch(init="zeros"), "`init` must be one of 'random', 'coordinates', got 'zeros'"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()
