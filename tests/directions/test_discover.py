import math

import pytest
import torch

from hessian_penalty.directions import hessian as hessian_module
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.directions.method import Space
from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import require_generator


class Product:
    """G(z) = z0·z1 in every pixel."""

    latent_dim = 2

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 2, generator=rng)

    def __call__(self, z):
        return (z[:, 0] * z[:, 1])[:, None, None, None].expand(-1, 1, 2, 2)


class Additive:
    """A sum of functions of one rotated coordinate each: its true axes are the rows of `rotation`."""

    def __init__(self, latent_dim, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.latent_dim = latent_dim
        self.rotation = torch.linalg.qr(torch.randn(latent_dim, latent_dim, generator=rng))[0]
        self.phase = torch.randn(latent_dim, 48, generator=rng)
        self.gain = torch.linspace(1.0, 0.2, latent_dim)[:, None] * torch.randn(latent_dim, 48, generator=rng)

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng)

    def __call__(self, z):
        turned = z @ self.rotation.T
        return (self.gain * torch.sin(turned[:, :, None] + self.phase)).sum(1).reshape(-1, 3, 4, 4)


class Entangled(Additive):
    """Not additive: no basis makes it so."""

    def __call__(self, z):
        return torch.tanh(super().__call__(z) + super().__call__(z.flip(1)) * z[:, :1, None, None])


def space_of(G):
    return Space(G, torch.eye(G.latent_dim, dtype=torch.float64))


def test_a_product_is_turned_onto_its_diagonals():
    found = discover(Product())
    assert torch.allclose(found.matrix.abs(), torch.full((2, 2), math.sqrt(0.5)), atol=1e-4)
    assert found.provenance["held_out_penalties"][-1] < 1e-6


@pytest.mark.parametrize("latent_dim", [5, 12])
def test_a_known_rotation_is_recovered(latent_dim):
    G = Additive(latent_dim)
    found = discover(G)
    cosines = (found.matrix @ G.rotation.T).abs()
    assert float(cosines.max(dim=1).values.min()) >= 0.999
    assert sorted(cosines.argmax(dim=1).tolist()) == list(range(latent_dim))


def test_sorted_by_activeness_with_the_largest_component_positive():
    found = discover(Additive(6))
    assert found.activeness is not None
    assert found.activeness.tolist() == sorted(found.activeness.tolist(), reverse=True)
    largest = found.matrix.gather(1, found.matrix.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())


@pytest.mark.parametrize("seed", range(4))
def test_the_held_out_penalty_never_rises(seed):
    """Judged on points and sketches of its own, with few sketches, where a search could overfit."""
    G = Entangled(6, seed)
    search = HessianSearch(sketches=4, held_out=64, rounds=2)
    basis = search.search(space_of(G), rng=torch.Generator().manual_seed(seed)).rows
    from hessian_penalty.metrics.interactions import hessian_statistics

    z = G.sample_latents(48, torch.Generator().manual_seed(99))
    before, _ = hessian_statistics(G, z)
    after, _ = hessian_statistics(G, z, basis=basis.float())
    off = [float(energy.sum() - energy.diagonal().sum()) for energy in (before, after)]
    assert off[1] <= off[0] * 1.02  # the 2% is what 64 held-out sketches leave undecided


def test_equal_bases_are_judged_equally(monkeypatch):
    """A search that always proposes the given basis: its held-out penalty is the same every time, not noise."""
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: torch.eye(4, dtype=torch.float64))
    search = HessianSearch(sketches=4, held_out=8, rounds=1)
    found = search.search(space_of(Entangled(4)), rng=torch.Generator().manual_seed(0))
    assert found.notes["held_out_penalties"] == [1.0, 1.0]


def test_a_worse_basis_is_not_taken(monkeypatch):
    """A search that proposes a random rotation of a generator that is additive already keeps the given basis."""
    G = Additive(4)
    worse = G.rotation.double()
    G.rotation = torch.eye(4)
    monkeypatch.setattr(hessian_module, "joint_diagonalize", lambda matrices: worse)
    search = HessianSearch(sketches=4, held_out=8, rounds=2)
    found = search.search(space_of(G), rng=torch.Generator().manual_seed(0))
    assert torch.equal(found.rows, torch.eye(4, dtype=torch.float64))


def test_entanglement_that_a_rotation_can_lift_is_lifted():
    found = discover(Entangled(6))
    assert min(found.provenance["held_out_penalties"]) < 0.9


def test_equal_seeds_find_equal_directions():
    first, second = (discover(Additive(4), rng=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.matrix, second.matrix)


def test_fewer_directions_are_the_most_active_of_all():
    few, full = discover(Additive(6), count=2), discover(Additive(6))
    assert torch.equal(few.matrix, full.matrix[:2])


def test_progress_ends_at_the_total():
    calls = []
    discover(Additive(3), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1]
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_conditions_reach_the_generator():
    class Labelled(Additive):
        def __call__(self, z, labels=None):
            assert labels == 3
            return super().__call__(z)

    assert len(discover(Labelled(3), labels=3)) == 3


class NotFinite(Additive):
    def __call__(self, z):
        return super().__call__(z) / 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discover(Additive(3), method="magic"), "Unknown method 'magic'; choose one of hessian"),
        (lambda: discover(Additive(3), count=4), r"`count` must lie in \[1, 3\], the dimension searched, got 4"),
        (lambda: discover(NotFinite(3)), "not finite"),
        (lambda: require_generator(torch.nn.Linear(3, 4)), "Linear has no latent_dim and sample_latents. Wrap it"),
        (lambda: HessianSearch(sketches=0), "sketches must be a finite number at least 1, got 0"),
        (lambda: HessianSearch(epsilon=-1.0), "epsilon must be a finite number at least 1e-06, got -1"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()
