import inspect
import math
from dataclasses import dataclass

import pytest
import torch

from hessian_penalty.directions import hessian as hessian_module
from hessian_penalty.directions.discover import METHODS, discover
from hessian_penalty.directions.fixed import Coordinates, RandomBasis
from hessian_penalty.directions.ganspace import GANSpaceSearch
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.directions.hessian_gradient import HessianGradientSearch
from hessian_penalty.directions.method import Found, Method, Space
from hessian_penalty.directions.orojar import OroJaRSearch
from hessian_penalty.directions.sefa import SeFaSearch
from hessian_penalty.directions.voynov import VoynovSearch
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
    before, *_ = hessian_statistics(G, z)
    after, *_ = hessian_statistics(G, z, basis=basis.float())
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
            assert torch.equal(labels, torch.full((len(z),), 3))
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


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def picture():
    """A small network: 4 latents, 8 pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = torch.nn.Linear(4, 3 * 64), torch.nn.Tanh(), torch.nn.Unflatten(1, (3, 8, 8))
        return torch.nn.Sequential(*layers).requires_grad_(False)


def test_a_bare_callable_needs_its_number_of_latents(picture):
    whole = Additive(4)
    function = whole.__call__
    assert len(discover(function, latent_dim=4, method="coordinates")) == 4
    with pytest.raises(UserError, match="`latent_dim` is needed for a Sequential that does not carry it"):
        discover(picture)
    with pytest.raises(UserError, match="`latent_dim` is 5, but the generator's own is 4; leave it out"):
        discover(whole, latent_dim=5)


def test_a_bare_callable_finds_what_a_generator_does():
    """Its latents are the same draws from N(0, I)."""
    G = Additive(4)
    search = HessianSearch(sketches=8, held_out=8, rounds=1)
    found, bare = discover(G, method=search), discover(lambda z: G(z), latent_dim=4, method=search)
    assert torch.equal(found.matrix, bare.matrix)
    assert torch.equal(found.activeness, bare.activeness)


SMALL_METHODS = {
    "hessian": HessianSearch(sketches=4, held_out=4, rounds=1),
    "hessian-gradient": HessianGradientSearch(steps=2, batch_size=4),
    "orojar": OroJaRSearch(samples=4, held_out=4),
    "sefa": SeFaSearch(),
    "ganspace": GANSpaceSearch(samples=100),
    "voynov": VoynovSearch(steps=2, batch_size=4),
    "coordinates": Coordinates(),
    "random": RandomBasis(),
}
SUBSPACES = [
    ("coarse", [0, 1, 2]),
    (slice(1, 3), [1, 2]),
    (range(0, 4, 3), [0, 3]),
    ([3, 1], [3, 1]),
    (torch.tensor([[1.0, 2.0, 0.0, 0.0], [0.0, 1.0, -1.0, 3.0]]), None),
]


def test_every_method_is_known_by_its_name():
    assert {n: type(m) for n, m in SMALL_METHODS.items()} == METHODS
    assert all(method.name == name for name, method in METHODS.items())


@pytest.mark.parametrize("name", ["hessian", "sefa", "coordinates", "random"])
def test_a_name_is_the_method_with_its_defaults(picture, name):
    by_name = discover(picture, latent_dim=4, method=name)
    by_object = discover(picture, latent_dim=4, method=METHODS[name]())
    assert torch.equal(by_name.matrix, by_object.matrix)
    assert by_name.provenance == by_object.provenance


@pytest.mark.parametrize("name", SMALL_METHODS)
def test_every_method_gives_sorted_unit_rows_and_says_what_it_was(picture, name):
    method = SMALL_METHODS[name]
    found = discover(picture, latent_dim=4, method=method)
    assert found.matrix.shape == (4, 4) and found.matrix.dtype == torch.float32
    assert torch.allclose(found.matrix.norm(dim=1), torch.ones(4), rtol=0, atol=1e-6)
    assert found.activeness.tolist() == sorted(found.activeness.tolist(), reverse=True)
    assert bool((found.matrix.gather(1, found.matrix.abs().argmax(dim=1, keepdim=True)) > 0).all())
    assert found.provenance["method"] == name
    assert found.provenance["settings"] == method.record()["settings"]
    assert found.provenance["subspace"] == "None"


@pytest.mark.parametrize(("subspace", "components"), SUBSPACES)
@pytest.mark.parametrize("name", SMALL_METHODS)
def test_no_method_leaves_the_subspace(picture, name, subspace, components):
    class Named:
        latent_dim = 4
        subspaces = {"coarse": slice(0, 3)}

        def sample_latents(self, count, rng=None):
            return torch.randn(count, 4, generator=rng)

        def __init__(self):
            self.network = picture

        def __call__(self, z):
            return self.network(z)

    layered = name == "sefa" and not isinstance(subspace, str)  # it wants a module, which has no named subspaces
    G, latent_dim = (picture, 4) if layered else (Named(), None)
    if name == "sefa" and not layered:
        G.latent_weights = lambda: picture[0].weight
    found = discover(G, latent_dim=latent_dim, method=SMALL_METHODS[name], subspace=subspace)
    basis = torch.eye(4)[components] if components else torch.linalg.qr(subspace.T)[0].T
    assert len(found) == len(basis)
    assert torch.allclose(found.matrix @ basis.T @ basis, found.matrix, rtol=0, atol=1e-6)
    assert int(torch.linalg.matrix_rank(found.matrix)) == len(basis)


def test_the_coordinates_of_a_subspace_are_its_components():
    found = discover(Additive(5), method="coordinates", subspace=[4, 1, 2], count=2)
    assert len(found) == 2
    assert set(found.matrix.argmax(dim=1).tolist()) < {4, 1, 2} and float(found.matrix.sum()) == 2


@pytest.mark.parametrize("count", [0, 3, -1])
def test_the_count_is_bounded_by_the_subspace(count):
    with pytest.raises(UserError, match=rf"`count` must lie in \[1, 2\], the dimension searched, got {count}"):
        discover(Additive(5), method="coordinates", subspace=[4, 1], count=count)


@dataclass(frozen=True)
class Few(Method):
    """Two rows, the less active one first."""

    name = "few"

    def search(self, space, *, rng, progress=None, state=None):
        rows = torch.eye(4, dtype=torch.float64)[[3, 1]] * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        return Found(rows, torch.tensor([30.0, 10.0], dtype=torch.float64), {"remark": "two"})


@pytest.mark.parametrize(("count", "kept"), [(None, 2), (4, 2), (2, 2), (1, 1)])
def test_methods_that_find_fewer_rows(count, kept):
    """All measures are sorted with the rows, and signs are turned."""
    gains = torch.tensor([0.0, 3.0, 0.0, 1.0])
    found = discover(lambda z: (gains * z)[:, :, None, None], latent_dim=4, method=Few(), count=count)
    assert torch.equal(found.matrix, torch.eye(4)[[1, 3]][:kept])
    assert found.curvature.tolist() == [10.0, 30.0][:kept]
    expected = [9 / 4, 1 / 4][:kept]  # the mean over four pixels, by 300 sample variances of four draws
    assert found.activeness.tolist() == pytest.approx(expected, rel=4 * math.sqrt(2 / 3 / 300))
    assert found.provenance["remark"] == "two"


def test_a_layer_that_reads_two_latents_gives_two_directions():
    weight = torch.tensor([[1.0, 0, 2, 0], [0, 0, 3, 0], [-1.0, 0, 0, 0], [1.0, 0, 1, 0]])
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    layer.weight.copy_(weight)
    G = torch.nn.Sequential(layer, torch.nn.Unflatten(1, (1, 2, 2)))
    found = discover(G, latent_dim=4, method=GANSpaceSearch(samples=2000), count=3)
    assert found.matrix.shape == (2, 4)
    assert float(found.matrix[:, [1, 3]].abs().max()) < 0.1  # covariances of 2000 samples


class Labelled:
    """Additive in a basis of its own for each of three labels."""

    latent_dim = 3

    def __init__(self, shared=False):
        normal = torch.randn(3, 3, 3, generator=seeded(4))
        self.rotations = torch.linalg.qr(normal)[0]
        if shared:
            self.rotations = self.rotations[:1].expand(3, 3, 3)
        self.phase = torch.randn(3, 3, 16, generator=seeded(5))
        self.seen = []

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng)

    def sample_labels(self, count, rng):
        return torch.randint(0, 3, (count,), generator=rng)

    def __call__(self, z, labels):
        self.seen.append((len(z), labels))
        turned = (self.rotations[labels] @ z[:, :, None])[:, :, 0]  # (N, 3)
        return torch.sin(turned[:, :, None] + self.phase[labels]).sum(1).reshape(-1, 1, 4, 4)


@pytest.mark.parametrize("label", range(3))
def test_a_fixed_label_gives_the_axes_of_that_label(label):
    G = Labelled()
    found = discover(G, method=HessianSearch(sketches=64, held_out=16), labels=torch.tensor([label]))
    cosines = (found.matrix @ G.rotations[label].T).abs()
    assert float(cosines.max(dim=1).values.min()) > 0.999
    assert all(torch.equal(labels.unique(), torch.tensor([label])) for _, labels in G.seen)


def test_random_labels_are_drawn_one_for_each_latent():
    G = Labelled(shared=True)
    found = discover(G, method=HessianSearch(sketches=64, held_out=16), labels="random")
    assert float((found.matrix @ G.rotations[0].T).abs().max(dim=1).values.min()) > 0.999
    assert all(rows == len(labels) for rows, labels in G.seen)
    assert all(len(labels.unique()) == 3 for rows, labels in G.seen if rows > 30)
    again = discover(Labelled(shared=True), method=HessianSearch(sketches=64, held_out=16), labels="random")
    assert torch.equal(found.matrix, again.matrix) and torch.equal(found.activeness, again.activeness)


def test_random_labels_need_a_generator_that_draws_them():
    with pytest.raises(UserError, match=r"`labels='random'` needs a generator with `sample_labels\(count, rng\)`"):
        discover(lambda z, labels: z, latent_dim=3, labels="random")


def test_unknown_conditions_are_refused_before_anything_runs():
    G = Labelled()
    with pytest.raises(UserError, match="`label` is neither an option here nor an argument of G, which takes `labels`"):
        discover(G, label=1)
    assert not G.seen


class Stop(Exception):
    """Ends a search from outside."""


class Counted(Entangled):
    """Counts its evaluations."""

    rows = 0

    def __call__(self, z):
        self.rows += len(z)
        return super().__call__(z)


SEARCH = HessianSearch(sketches=16, held_out=8, rounds=2, batch_size=8, smallest_gain=0.0)
POLISHED = HessianSearch(sketches=16, held_out=8, rounds=1, batch_size=8, polish=6, eta=1.0)


def stop_at(done):
    def progress(now, total):
        if now >= done:
            raise Stop

    return progress


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A file that keeps everything at once."""
    monkeypatch.setattr("hessian_penalty.directions.search_state.SECONDS_BETWEEN_SAVES", 0.0)
    return tmp_path / "search.safetensors"


def interrupted(checkpoint, G=None, *, at=100, method=SEARCH, rng=None, **options):
    G = G or Counted(4)
    with pytest.raises(Stop):
        discover(G, method=method, checkpoint=checkpoint, progress=stop_at(at), rng=rng or seeded(7), **options)
    return G


@pytest.mark.parametrize(
    ("method", "at"), [(SEARCH, 1), (SEARCH, 130), (SEARCH, 300), (POLISHED, 150), (POLISHED, 700)]
)
def test_an_interrupted_search_goes_on_to_the_same_result(checkpoint, method, at):
    whole_G, resumed_G = Counted(4), Counted(4)
    whole = discover(whole_G, method=method, rng=seeded(7))
    interrupted(checkpoint, method=method, at=at)
    assert checkpoint.exists() == (at > 1)
    shown = []
    resumed = discover(
        resumed_G, method=method, checkpoint=checkpoint, rng=seeded(7), progress=lambda *counts: shown.append(counts)
    )
    assert torch.equal(resumed.matrix, whole.matrix)
    assert torch.equal(resumed.activeness, whole.activeness)
    assert torch.equal(resumed.curvature, whole.curvature)
    assert resumed.provenance == whole.provenance
    assert not checkpoint.exists()
    assert shown[-1][0] == shown[-1][1] and [done for done, _ in shown] == sorted(done for done, _ in shown)
    saved = whole_G.rows - resumed_G.rows
    batch = 2 * 4 * method.batch_size  # evaluations of a pass over all corners, the least that is kept
    if at <= 700 and method is SEARCH:
        assert saved == at // batch * batch
    else:
        assert saved >= batch


def test_two_interruptions(checkpoint):
    whole = discover(Counted(4), method=SEARCH, rng=seeded(7))
    interrupted(checkpoint, at=130)
    second = interrupted(checkpoint, at=320)
    assert second.rows < 320
    assert torch.equal(discover(Counted(4), method=SEARCH, checkpoint=checkpoint, rng=seeded(7)).matrix, whole.matrix)
    assert not checkpoint.exists()


def test_a_search_in_one_go_leaves_no_file(checkpoint):
    with_file = discover(Counted(4), method=SEARCH, checkpoint=str(checkpoint), rng=seeded(7))
    without = discover(Counted(4), method=SEARCH, rng=seeded(7))
    assert torch.equal(with_file.matrix, without.matrix)
    assert not list(checkpoint.parent.iterdir())


def test_a_failed_search_keeps_its_file(checkpoint):
    interrupted(checkpoint)
    kept = checkpoint.read_bytes()
    with pytest.raises(Stop):
        discover(Counted(4), method=SEARCH, checkpoint=checkpoint, rng=seeded(7), progress=stop_at(1))
    assert checkpoint.read_bytes() == kept


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rng": seeded(8)}, "random_state"),
        ({"method": HessianSearch(sketches=16, held_out=8, rounds=1, batch_size=8)}, "settings"),
        ({"method": OroJaRSearch()}, "method, settings"),
        ({"G": Counted(4, seed=1)}, "generator"),
        ({"subspace": slice(0, 4)}, "subspace"),
    ],
)
def test_the_file_of_another_search_is_refused(checkpoint, change, named):
    interrupted(checkpoint)
    kept = checkpoint.read_bytes()
    same = {"G": Counted(4), "method": SEARCH, "checkpoint": checkpoint, "rng": seeded(7)}
    with pytest.raises(UserError, match=rf"search.safetensors holds another search: {named} differ\(s\)"):
        discover(**{**same, **change})
    assert checkpoint.read_bytes() == kept


@pytest.mark.parametrize("subspace", [torch.eye(4)[:2], [0, 1]])
def test_the_file_is_bound_to_the_subspace_by_value(checkpoint, subspace):
    interrupted(checkpoint, at=40, subspace=subspace)
    same = subspace.clone() if isinstance(subspace, torch.Tensor) else list(subspace)
    other = torch.eye(4)[1:3] if isinstance(subspace, torch.Tensor) else [1, 2]
    options = {"method": SEARCH, "checkpoint": checkpoint}
    with pytest.raises(UserError, match="another search: subspace differ"):
        discover(Counted(4), subspace=other, rng=seeded(7), **options)
    assert len(discover(Counted(4), subspace=same, rng=seeded(7), **options)) == 2


def test_the_file_is_bound_to_the_conditions(checkpoint):
    interrupted(checkpoint, Labelled(), at=100, labels=torch.tensor([1]))
    with pytest.raises(UserError, match="another search: .*conditions.* differ"):
        discover(Labelled(), method=SEARCH, checkpoint=checkpoint, rng=seeded(7), labels=torch.tensor([2]))
    same = discover(Labelled(), method=SEARCH, checkpoint=checkpoint, rng=seeded(7), labels=torch.tensor([1]))
    assert torch.equal(same.matrix, discover(Labelled(), method=SEARCH, rng=seeded(7), labels=torch.tensor([1])).matrix)


def test_a_subspace_may_be_a_parameter():
    discover(Additive(3), method="coordinates", subspace=torch.nn.Parameter(torch.eye(3)[:2]))


def test_a_search_of_a_generator_with_noise_goes_on_in_another_process(checkpoint):
    """Whatever the global random numbers are by then, its file is taken and its sketches are the same."""

    class Noisy(Counted):
        def __call__(self, z):
            return super().__call__(z) * (1 + torch.rand(len(z), 1, 1, 1))

    torch.manual_seed(1)
    whole = discover(Noisy(4), method=SEARCH, rng=seeded(7))
    torch.manual_seed(2)
    interrupted(checkpoint, Noisy(4), at=130)
    torch.manual_seed(3)
    resumed = discover(Noisy(4), method=SEARCH, checkpoint=checkpoint, rng=seeded(7))
    order = (resumed.matrix @ whole.matrix.T).abs().argmax(dim=1)  # activeness, which orders rows, sees other noise
    assert sorted(order.tolist()) == list(range(4))
    assert torch.equal(resumed.matrix, whole.matrix[order])


def test_interrupted_while_activeness_is_measured_the_search_is_kept(checkpoint, monkeypatch):
    whole = discover(Counted(4), method=SEARCH, rng=seeded(7))
    monkeypatch.setattr("hessian_penalty.directions.search_state.SECONDS_BETWEEN_SAVES", 1e9)

    class Stopping(Counted):
        searching = True

        def __call__(self, z):
            if not self.searching:
                raise Stop
            return super().__call__(z)

    G, again = Stopping(4), Counted(4)

    def progress(done, total):
        G.searching = done < total

    with pytest.raises(Stop):
        discover(G, method=SEARCH, checkpoint=checkpoint, rng=seeded(7), progress=progress)
    resumed = discover(again, method=SEARCH, checkpoint=checkpoint, rng=seeded(7))
    assert torch.equal(resumed.matrix, whole.matrix)
    assert again.rows == 4 * 300 * 4 + 2 * 2  # activeness and the fingerprint (checked): nothing of the search
    assert not checkpoint.exists()


@pytest.mark.parametrize(
    "length",
    [
        2,
        6,
        12,
        16,
        300,
    ],
)
def test_a_given_tensor_goes_to_the_generator_as_it_is(length):
    """Whatever its length, which may be that of a batch, a chunk or all samples."""

    class Weighted(Additive):
        def __call__(self, z, weight):
            assert weight.shape == (length, 2)
            return super().__call__(z)

    for method in (HessianSearch(sketches=16, held_out=6, rounds=1, batch_size=12), OroJaRSearch(samples=16), "random"):
        assert len(discover(Weighted(3), method=method, weight=torch.ones(length, 2))) == 3


@pytest.mark.parametrize(("method", "got"), [(HessianSearch, "<class .*HessianSearch'>"), (None, "None"), (3, "3")])
def test_a_method_is_a_name_or_an_object(method, got):
    """What a user sees, whose calls no type checker refuses first."""
    with pytest.raises(UserError, match=rf"`method` must be a name or a method with its settings, .* got {got}"):
        inspect.unwrap(discover)(Additive(3), method=method)
