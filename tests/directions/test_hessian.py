import math

import pytest
import torch

from hessian_penalty.directions import hessian as hessian_module
from hessian_penalty.directions.hessian import POLISH_BATCH, HessianSearch
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.errors import UserError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=seeded(seed), dtype=torch.float64))[0]


class Float64:
    latent_dim = 4

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng, dtype=torch.float64)


class Additive(Float64):
    """A sum of functions of one rotated coordinate each."""

    def __init__(self, latent_dim=4, seed=0):
        self.latent_dim = latent_dim
        self.rotation = random_rotation(latent_dim, seed)
        self.phase = torch.randn(latent_dim, 24, generator=seeded(seed + 1), dtype=torch.float64)

    def __call__(self, z):
        turned = z @ self.rotation.T
        return torch.sin(turned[:, :, None] + self.phase).sum(1).reshape(-1, 3, 2, 4)


class Deep(Float64):
    """Entangled; `labels` shift it."""

    def __init__(self, seed=3):
        self.first = torch.randn(4, 8, generator=seeded(seed), dtype=torch.float64) / 2
        self.second = torch.randn(8, 12, generator=seeded(seed + 1), dtype=torch.float64)

    def sample_labels(self, count, rng):
        return torch.randint(0, 5, (count,), generator=rng)

    def __call__(self, z, labels=None):
        shift = 0 if labels is None else labels[:, None].to(z) / 4
        return (torch.tanh(z @ self.first + shift) @ self.second).reshape(-1, 3, 2, 2)


def spied(generator):
    """The generator, with the rows of every pass kept in `passes`."""

    class Spy(type(generator)):
        def __call__(self, z, **conditions):
            self.passes.append(len(z))
            return super().__call__(z, **conditions)

    spy = object.__new__(Spy)
    spy.__dict__.update(generator.__dict__, passes=[])
    return spy


def search(G, *, seed=0, subspace=None, conditions=None, progress=None, **settings):
    settings = {"sketches": 12, "held_out": 10, "rounds": 2, **settings}
    space = Space(G, subspace_rows(G, subspace), conditions or {})
    return HessianSearch(**settings).search(space, rng=seeded(seed), progress=progress)


def energies(monkeypatch):
    """All held-out penalties that a search takes, a tensor for each basis, in order."""
    taken, energy = [], hessian_module.off_diagonal_energies

    def noting(matrices):
        taken.append(energy(matrices))
        return taken[-1]

    monkeypatch.setattr(hessian_module, "off_diagonal_energies", noting)
    return taken


def judged_as(monkeypatch, values):
    """The penalties of the held-out sketches, for one basis after the other."""
    values = iter(values)
    monkeypatch.setattr(hessian_module, "off_diagonal_energies", lambda matrices: torch.tensor(next(values)))


def falling(monkeypatch):
    """Held-out penalties that fall with every candidate, so that no round is left out."""
    judged_as(monkeypatch, ([0.5**i] for i in range(100)))


@pytest.mark.parametrize("settings", [{}, {"eta": 2.0}, {"conditions": {"labels": "random"}}, {"subspace": [3, 0, 1]}])
@pytest.mark.parametrize("batch_size", [1, 7, 12, 1000])
def test_the_result_does_not_depend_on_the_batch_size(settings, batch_size):
    whole, parts = search(Deep(), **settings), search(Deep(), batch_size=batch_size, **settings)
    assert torch.allclose(parts.rows, whole.rows, rtol=0, atol=1e-9)
    assert torch.allclose(parts.curvature, whole.curvature, rtol=0, atol=1e-9)
    assert parts.notes["held_out_penalties"] == pytest.approx(whole.notes["held_out_penalties"], abs=1e-9)


@pytest.mark.parametrize("batch_size", [5, 8, 1000])
def test_passes_are_no_larger_than_the_batch_size(batch_size):
    G = spied(Deep())
    search(G, batch_size=batch_size)
    assert max(G.passes) == min(batch_size, 12)


@pytest.mark.parametrize("batch_size", [1, 6, 1000])
def test_random_conditions_follow_their_latents(batch_size):
    """A component that is not searched tells the label: each latent must always come with its own."""

    class Marked(Float64):
        def sample_latents(self, count, rng=None):
            self.drawn = super().sample_latents(count, rng)
            return self.drawn

        def sample_labels(self, count, rng):
            return self.drawn[:, 3].clone()

        def __call__(self, z, labels=None):
            assert torch.allclose(labels, z[:, 3], rtol=0, atol=1e-12)
            return torch.sin(z[:, :3].cumsum(1))[:, :, None, None]

    search(Marked(), subspace=range(3), conditions={"labels": "random"}, batch_size=batch_size)


def test_curvature_is_that_of_each_row():
    """Pixel i is a_i z_i² + b_i z_i: the second derivative along z_i is 2 a_i there, and central differences exact."""

    class Squares(Float64):
        latent_dim = 3

        def __call__(self, z):
            curved = z.new_tensor([0.5, -2.0, 1.0]) * z.square() + z.new_tensor([4.0, 0.0, 0.0]) * z
            return curved[:, :, None, None]

    found = search(Squares())
    components = found.rows.abs().argmax(dim=1)
    assert torch.allclose(found.rows.abs(), torch.eye(3, dtype=torch.float64)[components], rtol=0, atol=1e-6)
    expected = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)[components]
    assert torch.allclose(found.curvature, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.5])
def test_eta_moves_each_point_along_one_current_direction(monkeypatch, eta):
    class AtZero(Deep):
        def sample_latents(self, count, rng=None):
            return torch.zeros(count, 4, dtype=torch.float64)

    points, sketches = [], hessian_module.hessian_sketches

    def noting(space, z, conditions, *, along, **options):
        points.append((z, along))
        return sketches(space, z, conditions, along=along, **options)

    monkeypatch.setattr(hessian_module, "hessian_sketches", noting)
    falling(monkeypatch)
    search(AtZero(), eta=eta)
    assert len(points) == 5  # what judges: the given basis and two candidates; what is diagonalised: two rounds
    for z, along in points:
        amounts = z @ along.T
        assert torch.allclose(amounts @ along, z, rtol=0, atol=1e-12)
        assert int((amounts.abs() > 1e-12).sum()) == (len(z) if eta else 0)
        assert float(z.norm(dim=1).max()) <= eta * (1 + 1e-12)
    if eta:  # at 0 itself this generator has no curvature, and the basis stays
        assert not torch.allclose(points[0][1], points[-1][1], rtol=0, atol=1e-3)
    held_out = [z @ along.T for z, along in points if len(z) == 10]
    assert all(torch.allclose(amounts, held_out[0], rtol=0, atol=1e-12) for amounts in held_out)


def test_with_eta_a_rotation_is_found_that_shows_only_far_from_the_latents():
    """Flat within 1 of the origin, where all latents lie; curved along each rotated coordinate beyond."""

    class Flat(Float64):
        rotation = random_rotation(4)

        def sample_latents(self, count, rng=None):
            return super().sample_latents(count, rng) / 100

        def __call__(self, z):
            excess = (z @ self.rotation.T).abs().sub(1).clamp(min=0)
            return excess.square()[:, :, None, None]

    near, far = (search(Flat(), eta=eta, sketches=64, held_out=64) for eta in (0.0, 5.0))
    assert torch.equal(near.rows, torch.eye(4, dtype=torch.float64))
    assert float((far.rows @ Flat.rotation.T).abs().max(dim=1).values.min()) > 0.999


def test_in_a_subspace_its_own_axes_are_found():
    """Any basis of the plane of three true axes gives these back."""
    G = Additive(6)
    mixed = torch.randn(3, 3, generator=seeded(5), dtype=torch.float64) @ G.rotation[[4, 0, 2]]
    found = search(G, subspace=mixed, sketches=32)
    cosines = (found.rows @ G.rotation.T).abs()
    assert found.rows.shape == (3, 6)
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 2, 4]
    assert float(cosines.max(dim=1).values.min()) > 1 - 1e-6
    assert torch.allclose(found.rows @ found.rows.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("subspace", [None, range(2)])
@pytest.mark.parametrize("batch_size", [4, 1000])
@pytest.mark.parametrize("polish", [0, 3])
def test_evaluations_are_the_rows_that_the_generator_gets(monkeypatch, subspace, batch_size, polish):
    """The generator, and the path of the descent, are evaluated once more each to see that they are functions."""
    falling(monkeypatch)
    G, shown, settings = spied(Deep()), [], {"rounds": 3, "batch_size": batch_size, "polish": polish}
    found = search(G, subspace=subspace, progress=lambda *counts: shown.append(counts), **settings)
    dim = 4 if subspace is None else 2
    total = HessianSearch(sketches=12, held_out=10, **settings).evaluations(dim)
    checks = min(batch_size, 10) + (POLISH_BATCH if polish else 0)
    assert found.notes["evaluations"] == total
    assert sum(G.passes) == total + checks
    assert len(found.notes["held_out_penalties"]) == 4 + (polish > 0)
    assert [done for done, _ in shown] == sorted(done for done, _ in shown)
    assert {of for _, of in shown} == {total} and shown[-1] == (total, total)


def test_rounds_end_where_nothing_is_gained(monkeypatch):
    """The second candidate is no better than the first."""
    judged_as(monkeypatch, [[8.0] * 10, [2.0] * 10, [2.0] * 10])
    G, shown = spied(Deep()), []
    found = search(G, rounds=9, batch_size=5, progress=lambda *counts: shown.append(counts))
    assert found.notes["held_out_penalties"] == [1.0, 0.25, 0.25]
    assert found.notes["evaluations"] == 2 * 4 * (3 * 10 + 2 * 12) == sum(G.passes) - 5
    assert shown[-1][0] == shown[-1][1]


@pytest.mark.parametrize("polish", [0, 8])
@pytest.mark.parametrize("seed", range(2))
def test_a_basis_is_taken_unless_it_is_clearly_worse(monkeypatch, seed, polish):
    """A search from the rows found, with the same seed, begins with their penalties on the same held-out sketches."""
    taken = energies(monkeypatch)
    monkeypatch.setattr(hessian_module, "_shrinkage", lambda sketches: torch.ones(len(sketches)))
    G = Deep(seed)
    settings = {"sketches": 3, "rounds": 3, "smallest_gain": 0.0, "polish": polish}
    found = search(G, seed=seed, **settings)
    judged = taken.copy()
    taken.clear()
    search(G, seed=seed, subspace=found.rows, **settings)
    best = judged[0]
    for candidate in judged[1 : len(judged) - (polish > 0)]:
        falls = best - candidate
        if falls.mean() >= -falls.std() / len(falls) ** 0.5 and candidate.mean() < judged[0].mean():
            best = candidate
    if polish and (best - judged[-1]).mean() > (best - judged[-1]).std() / len(best) ** 0.5:
        best = judged[-1]
    assert torch.allclose(taken[0], best, rtol=1e-9)
    relative = [float(value.mean() / judged[0].mean()) for value in judged]
    assert found.notes["held_out_penalties"] == pytest.approx(relative, rel=1e-12)


@pytest.mark.parametrize(
    ("values", "rounds", "taken"),
    [
        ([[8.0, 8.0], [4.0, 4.0], [3.5, 5.5], [4.0, 4.0]], 2, 2),  # worse by 0.5 ± 1: more sketches win
        ([[8.0, 8.0], [4.0, 4.0], [4.9, 5.1], [4.0, 4.0]], 2, 1),  # worse by 1 ± 0.1
        ([[8.0, 8.0], [7.0, 9.2], [9.0, 9.0]], 1, 0),  # worse than given by 0.1 ± 1.1
        ([[8.0, 8.0], [8.0, 8.0], [9.0, 9.0]], 1, 0),  # no better than given
    ],
)
def test_which_basis_is_taken(monkeypatch, values, rounds, taken):
    judged_as(monkeypatch, values)
    bases = iter(torch.eye(4, dtype=torch.float64).roll(shift, 0) for shift in (1, 2, 3))
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: next(bases))
    rows = search(Deep(), rounds=rounds, sketches=2, held_out=2, batch_size=2).rows
    assert torch.equal(rows, torch.eye(4, dtype=torch.float64).roll(taken, 0))


def test_sketches_larger_than_the_median_are_scaled_down_to_it():
    sketches = torch.eye(2, dtype=torch.float64) * torch.tensor([1.0, 2.0, 3.0, 300.0, 0.0])[:, None, None]
    factors = hessian_module._shrinkage(sketches)
    torch.testing.assert_close(factors, torch.tensor([1, 1, 2 / 3, 2 / 300, 1], dtype=torch.float64))
    assert torch.equal(hessian_module._shrinkage(torch.zeros(3, 2, 2)), torch.ones(3))


def test_one_enormous_sketch_does_not_turn_the_basis(monkeypatch):
    """A spike of curvature, as a kink gives, along a diagonal of two true axes, in one of forty sketches."""
    G = Additive()
    ordinary = hessian_module.hessian_sketches

    def spiked(*given, along, **options):
        sketches = ordinary(*given, along=along, **options)
        diagonal = along.double() @ torch.tensor([1.0, 1.0, 0, 0], dtype=torch.float64)
        sketches[0] += 1e5 * torch.outer(diagonal, diagonal)
        return sketches

    plain = search(G, sketches=40, rounds=1).rows
    monkeypatch.setattr(hessian_module, "hessian_sketches", spiked)
    assert (plain @ search(G, sketches=40, rounds=1).rows.T).abs().amax(dim=1).min() > 0.95


def test_polish_improves_a_poor_start(monkeypatch):
    """Joint diagonalisation that does nothing leaves the given basis of a rotated generator."""
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: torch.eye(4, dtype=torch.float64))
    G = Additive()
    poor, polished = (search(G, polish=steps) for steps in (0, 60))
    assert poor.notes["held_out_penalties"] == [1.0, 1.0]
    assert polished.notes["held_out_penalties"][-1] < 0.2
    assert torch.equal(poor.rows, torch.eye(4, dtype=torch.float64))
    assert torch.allclose(polished.rows @ polished.rows.T, poor.rows, rtol=0, atol=1e-12)
    alignment = [float((found.rows @ G.rotation.T).abs().max(dim=1).values.min()) for found in (poor, polished)]
    assert alignment[1] > max(0.9, alignment[0])


@pytest.mark.parametrize("better", [True, False])
def test_a_polished_basis_is_taken_only_where_it_is_better(monkeypatch, better):
    G = Additive()
    given, other = torch.eye(4, dtype=torch.float64), G.rotation
    if not better:
        given, other = other, random_rotation(4, 9)
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: given)
    monkeypatch.setattr(hessian_module, "descend", lambda *args, **options: other)
    found = search(G, polish=1)
    taken = other if better else given
    assert torch.equal(found.rows, taken)
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: taken)
    assert torch.equal(found.curvature, search(G).curvature)


def test_polish_stays_in_the_subspace(monkeypatch):
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: torch.eye(3, dtype=torch.float64))
    plane = torch.randn(3, 4, generator=seeded(5), dtype=torch.float64)
    found = search(Additive(), subspace=plane, polish=15, eta=1.0)
    rows = subspace_rows(Additive(), plane)
    assert found.notes["held_out_penalties"][-1] < 1 and not torch.equal(found.rows, rows)
    assert torch.allclose(found.rows @ rows.T @ rows, found.rows, rtol=0, atol=1e-12)


def test_a_generator_without_curvature_keeps_its_basis():
    class Linear(Float64):
        def __call__(self, z):
            return z[:, :, None, None]

    found = search(Linear())
    assert torch.equal(found.rows, torch.eye(4, dtype=torch.float64))
    assert found.curvature.tolist() == pytest.approx([0.0] * 4, abs=1e-12)


def test_one_latent_is_its_own_direction():
    class One(Float64):
        latent_dim = 1

        def __call__(self, z):
            return z.square()[:, :, None, None]

    found = search(One())
    assert found.rows.tolist() == [[1.0]] and math.isclose(float(found.curvature[0]), 2.0, rel_tol=1e-9)


class NoGradient(Deep):
    def __call__(self, z, labels=None):
        return super().__call__(z, labels).detach()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HessianSearch(held_out=0), "held_out must be a finite number at least 1, got 0"),
        (lambda: HessianSearch(rounds=0), "rounds must be a finite number at least 1, got 0"),
        (lambda: HessianSearch(batch_size=-3), "batch_size must be a finite number at least 1, got -3"),
        (lambda: HessianSearch(eta=-0.5), "eta must be a finite number at least 0, got -0.5"),
        (lambda: HessianSearch(smallest_gain=-1.0), "smallest_gain must be a finite number at least 0, got -1"),
        (lambda: HessianSearch(polish=-1), "polish must be a finite number at least 0, got -1"),
        (lambda: HessianSearch(epsilon=math.nan), "epsilon must be a finite number at least 1e-06, got nan"),
        (lambda: search(NoGradient()), "The generator gives no gradient with respect to its latents"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()
