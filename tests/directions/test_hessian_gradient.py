import pytest
import torch

from hessian_penalty.directions import search_state
from hessian_penalty.directions.descent import block_means, orthonormal_rows
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.hessian_gradient import HessianGradientSearch, PathPenalty, descend
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator

QUICK = HessianGradientSearch(steps=12, learning_rate=0.05, batch_size=4)


class Additive:
    """A sum of functions of one rotated coordinate each: its true axes are the rows of `rotation`."""

    def __init__(self, latent_dim, seed=0, dtype=torch.float32):
        rng = torch.Generator().manual_seed(seed)
        self.latent_dim, self.dtype = latent_dim, dtype
        self.rotation = torch.linalg.qr(torch.randn(latent_dim, latent_dim, generator=rng))[0].to(dtype)
        self.phase = torch.randn(latent_dim, 48, generator=rng).to(dtype)
        self.gain = torch.linspace(1.0, 0.2, latent_dim)[:, None] * torch.randn(latent_dim, 48, generator=rng).to(dtype)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng, dtype=self.dtype)

    def __call__(self, z):
        turned = z @ self.rotation.T
        return (self.gain * torch.sin(turned[:, :, None] + self.phase)).sum(1).reshape(-1, 3, 4, 4)


def space_of(G, subspace=None, **conditions):
    return Space(G, subspace_rows(G, subspace), conditions)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("latent_dim", "init"), [(4, "random"), (5, "coordinates")])
def test_a_known_rotation_is_recovered(latent_dim, init):
    G = Additive(latent_dim)
    search = HessianGradientSearch(steps=120, learning_rate=0.05, batch_size=16, init=init)
    found = search.search(space_of(G), rng=seeded())
    cosines = (found.rows.float() @ G.rotation.T).abs()
    assert float(cosines.max(dim=1).values.min()) > 0.99
    assert sorted(cosines.argmax(dim=1).tolist()) == list(range(latent_dim))
    means = found.notes["penalties"]
    assert len(means) == 20
    assert means[-1] < 1e-2 * means[0]
    assert found.notes["evaluations"] == 120 * 16 * 4


def test_the_gradient_is_that_of_the_same_penalty():
    """Central differences in float64, at the same latents, moves and probes, through the orthonormalisation too."""
    path = PathPenalty(space_of(Additive(3, dtype=torch.float64)), HessianGradientSearch(batch_size=5, k=3))

    def penalty(A):
        return path.penalty(orthonormal_rows(A), seeded(1))

    A = torch.randn(3, 3, generator=seeded(2), dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(penalty(A), A)
    step = 1e-5
    for index in range(9):
        unit = torch.zeros(9, dtype=torch.float64)
        unit[index] = step
        with torch.no_grad():
            difference = penalty(A + unit.reshape(3, 3)) - penalty(A - unit.reshape(3, 3))
        assert abs(float(difference / (2 * step) - gradient.flatten()[index])) < 1e-7 * float(gradient.norm() + 1)


def test_the_penalty_is_that_of_the_path():
    """Of a bilinear G it is known: G(z + A w) has the Hessian A H A^T everywhere, in coordinates of the subspace."""
    H = torch.randn(4, 4, generator=seeded(3), dtype=torch.float64)
    G = FunctionGenerator(
        lambda z: ((z @ H) * z).sum(1)[:, None, None, None] / 2,
        sample=lambda count, rng: torch.randn(count, 4, generator=rng, dtype=torch.float64),
    )
    span = torch.randn(2, 4, generator=seeded(4), dtype=torch.float64)
    space = space_of(G, span)
    path = PathPenalty(space, HessianGradientSearch(batch_size=4000))
    basis = orthonormal_rows(torch.randn(2, 2, generator=seeded(5), dtype=torch.float64))
    along = basis @ space.rows
    turned = along @ (H + H.T) / 2 @ along.T
    expected = 2 * float(turned[0, 1] ** 2)
    # with two probes in two dimensions half of the pairs differ: each estimate is 0 or twice the mean
    assert abs(float(path.penalty(basis, seeded())) - expected) < 4 * expected / 4000**0.5


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (3, 6)])
def test_qr_equals_gram_schmidt(shape):
    matrix = torch.randn(*shape, generator=seeded(), dtype=torch.float64)
    rows = []
    for row in matrix:
        for before in rows:
            row = row - (row @ before) * before
        rows.append(row / row.norm())
    assert torch.allclose(orthonormal_rows(matrix), torch.stack(rows), rtol=0, atol=1e-12)


def test_rows_are_orthonormal_and_lie_in_the_subspace():
    G = Additive(5)
    span = torch.randn(3, 5, generator=seeded(), dtype=torch.float64)
    rows = QUICK.search(space_of(G, span), rng=seeded()).rows
    assert torch.allclose(rows @ rows.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    inside = torch.linalg.lstsq(span.T, rows.T).solution
    assert torch.allclose(span.T @ inside, rows.T, atol=1e-12)


def test_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    """To the last bit, the penalties and the state of the random numbers included."""
    monkeypatch.setattr(search_state, "SECONDS_BETWEEN_SAVES", 0.0)

    def interrupt(done, total):
        if done == 7:
            raise KeyboardInterrupt

    space, whole_rng, rng = space_of(Additive(4)), seeded(), seeded()
    whole = QUICK.search(space, rng=whole_rng)
    with pytest.raises(KeyboardInterrupt):
        QUICK.search(space, rng=seeded(), progress=interrupt, state=SearchState(tmp_path / "state", {}))
    seen = []
    state = SearchState(tmp_path / "state", {})
    resumed = QUICK.search(space, rng=rng, progress=lambda *done: seen.append(done), state=state)
    assert seen == [(step, 12) for step in range(8, 13)]
    assert torch.equal(resumed.rows, whole.rows)
    assert resumed.notes == whole.notes
    assert torch.equal(rng.get_state(), whole_rng.get_state())
    finished = QUICK.search(space, rng=seeded(), state=SearchState(tmp_path / "state", {}))
    assert torch.equal(finished.rows, whole.rows)
    assert finished.notes == whole.notes


def test_a_search_through_a_checkpoint_file_is_the_same(tmp_path):
    plain = discover(Additive(3), method=QUICK)
    kept = discover(Additive(3), method=QUICK, checkpoint=tmp_path / "state")
    assert torch.equal(plain.matrix, kept.matrix)
    assert not (tmp_path / "state").exists()


class Labelled(Additive):
    """Has its labels written into its latents, to see that they belong together."""

    def sample_latents(self, count, rng=None):
        z = super().sample_latents(count, rng)
        z[:, 2] = 100.0 * torch.arange(count)
        return z

    def sample_labels(self, count, rng):
        return torch.arange(count)

    def __call__(self, z, labels=None, k=None):
        assert k == "not ours"
        assert torch.equal((z[:, 2].detach() / 100).round().long(), labels)
        return super().__call__(z[:, :3])


def test_conditions_follow_their_samples():
    """Also one that has the name of an option of the penalty."""
    found = QUICK.search(space_of(Labelled(3), [0, 1], labels="random", k="not ours"), rng=seeded())
    assert found.rows.shape == (2, 3)


def test_points_lie_one_step_along_a_direction_from_drawn_latents():
    """G is evaluated at z + w A, with w one number in [-η, η] and all the others 0, plus the probes' ±ε each."""
    seen = []

    class Watched(Additive):
        def sample_latents(self, count, rng=None):
            return torch.zeros(count, self.latent_dim)

        def __call__(self, z):
            seen.append(z.detach())
            return super().__call__(z)

    basis = orthonormal_rows(torch.randn(4, 4, generator=seeded(), dtype=torch.float64))
    PathPenalty(space_of(Watched(4)), HessianGradientSearch(batch_size=200)).penalty(basis, seeded())
    w = torch.stack(seen[-4:]) @ basis.T.float()  # (corners, batch, dim)
    centres = w.mean(dim=0)
    moved = centres.abs() > 1e-4
    assert bool((moved.sum(dim=1) <= 1).all())
    assert 45 <= int(centres.abs().amax(dim=1).gt(2.5).sum()) <= 155  # half of them: z-score within 8
    assert float(centres.abs().max()) <= 5.0
    assert moved.any(dim=0).all()
    assert torch.allclose((w - centres).abs(), torch.full_like(w, 0.1), atol=1e-4)


def test_a_callable_without_modules_is_checked_to_be_a_function_once():
    passes = []

    def image(z):
        passes.append(len(z))
        return z.square().sum(dim=1)[:, None, None, None]

    QUICK.search(space_of(FunctionGenerator(image, 3)), rng=seeded())
    assert len(passes) == 12 * 4 + 1


def test_the_generator_is_left_as_it_was():
    """A search in a no_grad block works, and neither gradients nor flags of the generator's parameters change."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    network[0].bias.requires_grad_(False)
    with torch.no_grad():
        QUICK.search(space_of(FunctionGenerator(network, 3)), rng=seeded())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [parameter.requires_grad for parameter in network.parameters()] == [True, False, True, True]


def test_one_dimension_has_one_direction():
    rows = QUICK.search(space_of(Additive(3), [1]), rng=seeded()).rows
    assert torch.equal(rows.abs(), torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))


def test_descent_starts_from_a_given_basis():
    """From the true axes, where the penalty is 0, Adam's steps are too small to lose them."""
    G, settings = Additive(4), HessianGradientSearch(steps=3, learning_rate=1e-4, batch_size=4)
    penalties = []
    basis = descend(
        space_of(G), G.rotation.double(), settings, rng=seeded(),
        on_step=lambda tensors: penalties.append(float(tensors["penalties"][-1])),
    )  # fmt: skip
    assert torch.allclose(basis.float(), G.rotation, atol=1e-3)
    assert len(penalties) == 3
    assert max(penalties) < 1e-4


def test_means_of_blocks():
    assert block_means(torch.arange(6.0)) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert block_means(torch.arange(50.0)) == [3 * block + 1.0 for block in range(16)] + [48.5]


def generator(function):
    return space_of(FunctionGenerator(function, 2))


WEIGHT = torch.ones(1, requires_grad=True)


def pixels(z):
    return (z[:, 0] * z[:, 1])[:, None, None, None]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QUICK.search(generator(lambda z: pixels(z) / 0.0), rng=seeded()), "Step 1 of the search .*not finite"),
        (lambda: QUICK.search(generator(lambda z: 1e30 * pixels(z)), rng=seeded()), "at step 1 .*penalty inf.*`eta`"),
        (lambda: QUICK.search(generator(lambda z: pixels(z).detach()), rng=seeded()), "gives no gradient .*'orojar'"),
        (
            lambda: QUICK.search(generator(lambda z: pixels(z).detach() * WEIGHT), rng=seeded()),
            "gives no gradient .*'orojar'",
        ),
        (lambda: QUICK.search(generator(lambda z: pixels(z).half()), rng=seeded()), "Step 1 .*float32 or float64"),
        (lambda: QUICK.search(space_of(Additive(2), labels="random"), rng=seeded()), "^`labels='random'` needs a gene"),
        (lambda: HessianGradientSearch(steps=0), "steps must be a finite number at least 1, got 0"),
        (lambda: HessianGradientSearch(learning_rate=-1.0), "learning_rate must be .* at least 0, got -1"),
        (lambda: HessianGradientSearch(batch_size=0), "batch_size must be .* at least 1, got 0"),
        (lambda: HessianGradientSearch(k=1), "k must be .* at least 2, got 1"),
        (lambda: HessianGradientSearch(epsilon=0.0), "epsilon must be .* at least 1e-06, got 0"),
        (lambda: HessianGradientSearch(eta=-1.0), "eta must be .* at least 0, got -1"),
        (lambda: HessianGradientSearch(init="zeros"), "`init` must be one of 'random', 'coordinates', got 'zeros'"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()
