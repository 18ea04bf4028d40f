import numpy as np
import pytest
import torch

from hessian_penalty.directions import orojar as orojar_module
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.directions.orojar import OroJaRSearch, jacobian_grams
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import as_generator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_rotation(n, seed=0):
    return torch.linalg.qr(torch.randn(n, n, generator=seeded(seed), dtype=torch.float64))[0]


class Float64:
    latent_dim = 4

    def sample_latents(self, count, rng=None):
        return torch.randn(count, self.latent_dim, generator=rng, dtype=torch.float64)


class Linear(Float64):
    """G(z) = W z as grey images of 3 x 2 pixels."""

    def __init__(self):
        self.weight = torch.randn(6, 4, generator=seeded(1), dtype=torch.float64)

    def __call__(self, z):
        return (z @ self.weight.T).reshape(-1, 1, 3, 2)


class Separate(Float64):
    """Each rotated coordinate moves pixels of its own, so that the Jacobian along the rotation's rows is orthogonal."""

    def __init__(self, gains=(2.0, 1.5, 1.0, 0.5)):
        self.rotation = random_rotation(4, 2)
        self.gains = torch.tensor(gains, dtype=torch.float64)

    def __call__(self, z):
        turned = z @ self.rotation.T
        return torch.cat([self.gains * torch.tanh(turned), turned.square()], dim=1).reshape(-1, 2, 2, 2)


class Deep(Float64):
    """Smooth and entangled; `labels` shift it."""

    def __init__(self):
        self.first = torch.randn(4, 8, generator=seeded(3), dtype=torch.float64) / 2
        self.second = torch.randn(8, 12, generator=seeded(4), dtype=torch.float64)

    def __call__(self, z, labels=None):
        shift = 0 if labels is None else labels[:, None].to(z) / 4
        return (torch.tanh(z @ self.first + shift) @ self.second).reshape(-1, 3, 2, 2)

    def sample_labels(self, count, rng):
        return torch.randint(0, 5, (count,), generator=rng)


def space_of(G, subspace=None, **conditions):
    return Space(G, subspace_rows(G, subspace), conditions)


def search(G, *, seed=0, subspace=None, conditions=None, **settings):
    settings = {"samples": 16, "held_out": 8, **settings}
    return OroJaRSearch(**settings).search(space_of(G, subspace, **(conditions or {})), rng=seeded(seed))


def exact_grams(G, z, rows, labels=None):
    """D J^T J D^T at every z, by forward-mode autodiff."""
    grams = []
    for i, point in enumerate(z):
        given = {} if labels is None else {"labels": labels[i : i + 1]}
        jacobian = torch.func.jacrev(lambda x, given=given: G(x[None], **given).flatten())(point)
        grams.append(rows @ jacobian.T @ jacobian @ rows.T)
    return torch.stack(grams)


def test_of_a_linear_generator_it_finds_the_right_singular_vectors():
    G = Linear()
    found = search(G)
    _, vectors = np.linalg.eigh((G.weight.T @ G.weight).numpy())
    cosines = np.abs(found.rows.numpy() @ vectors)
    assert np.abs(np.sort(cosines.max(axis=1)) - 1).max() < 1e-6
    assert sorted(cosines.argmax(axis=1).tolist()) == [0, 1, 2, 3]
    assert found.notes["held_out_penalties"][0] == 1.0
    assert found.notes["held_out_penalties"][1] < 1e-12


def test_a_rotation_behind_an_orthogonal_jacobian_is_recovered():
    G = Separate()
    found = search(G, epsilon=1e-3)
    cosines = (found.rows @ G.rotation.T).abs()
    assert float((cosines.max(dim=1).values - 1).abs().max()) < 1e-6
    assert sorted(cosines.argmax(dim=1).tolist()) == [0, 1, 2, 3]


def test_gradients_are_not_needed():
    """With NumPy inside, autodiff cannot follow; the same in PyTorch gives the same."""
    G = Separate()

    class InNumPy(Separate):
        def __call__(self, z):
            assert not z.requires_grad
            return torch.from_numpy(super().__call__(z).numpy().copy())

    assert torch.allclose(search(InNumPy()).rows, search(G).rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("subspace", [None, [2, 0], torch.tensor([[1.0, 1, 0, 0], [0.0, 1, 2, 3]])])
def test_grams_are_those_of_the_exact_jacobian(subspace):
    """A central difference of smooth images errs by ε² f'''/6: 1e-8 at ε = 1e-4, rounding 1e-16 / ε."""
    G = Deep()
    z, space = G.sample_latents(5, seeded()), space_of(G, subspace)
    found = jacobian_grams(space, z, {}, epsilon=1e-4)
    exact = exact_grams(G, z, space.rows)
    assert found.shape == exact.shape
    assert float((found - exact).abs().max()) < 1e-6
    coarse = jacobian_grams(space, z, {}, epsilon=1e-2) - exact
    fine = jacobian_grams(space, z, {}, epsilon=5e-3) - exact
    assert float(coarse.norm() / fine.norm()) == pytest.approx(4.0, rel=0.02)


def test_conditions_follow_their_samples():
    G = Deep()
    z, labels = G.sample_latents(6, seeded()), torch.tensor([0, 4, 1, 3, 2, 0])
    space = space_of(G)
    exact = exact_grams(G, z, space.rows, labels)
    for batch_size in (None, 6, 20, 100):
        found = jacobian_grams(space, z, {"labels": labels}, epsilon=1e-4, batch_size=batch_size)
        assert float((found - exact).abs().max()) < 1e-6


@pytest.mark.parametrize("conditions", [{}, {"labels": "random"}])
@pytest.mark.parametrize("batch_size", [1, 8, 23, 1000])
def test_the_result_does_not_depend_on_the_batch_size(conditions, batch_size):
    whole = search(Deep(), conditions=conditions)
    assert torch.allclose(search(Deep(), conditions=conditions, batch_size=batch_size).rows, whole.rows, atol=1e-9)


def test_random_labels_matter():
    assert not torch.allclose(search(Deep()).rows, search(Deep(), conditions={"labels": "random"}).rows, atol=1e-3)


def test_a_subspace_is_not_left():
    G, plane = Linear(), torch.tensor([[1.0, 1, 0, 0], [0.0, 1, 2, 3]])
    space = space_of(G, plane)
    found = search(G, subspace=plane)
    assert torch.allclose(found.rows @ space.rows.T @ space.rows, found.rows, rtol=0, atol=1e-12)
    gram = found.rows @ G.weight.T @ G.weight @ found.rows.T
    assert abs(float(gram[0, 1])) < 1e-8


def test_noise_is_the_same_on_both_sides_of_a_difference():
    """Dropout after a linear layer; with other noise at each corner, differences of size ε would drown in it."""
    torch.manual_seed(0)
    G = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Dropout(), torch.nn.Unflatten(1, (4, 4, 4))).double()
    generator = as_generator(G, 4)
    z = torch.randn(2, 4, generator=seeded(), dtype=torch.float64)
    found = jacobian_grams(space_of(generator), z, {}, epsilon=1e-3, batch_size=64)
    weight = G[0].weight.detach()
    assert float(found.diagonal(dim1=1, dim2=2).max()) <= 4 * float(weight.square().sum(dim=0).max())


def test_passes_are_no_larger_than_the_batch_size():
    sizes = []

    class Watched(Deep):
        def __call__(self, z):
            sizes.append(len(z))
            return super().__call__(z)

    found = search(Watched(), batch_size=20)
    assert max(sizes) <= 20
    assert sum(sizes) == found.notes["evaluations"] + 16  # one pass is repeated, to see that G is a function
    assert len(sizes) <= 14


def test_the_given_basis_stays_where_another_is_not_better(monkeypatch):
    monkeypatch.setattr(orojar_module, "joint_diagonalize", lambda matrices: random_rotation(4))
    G = Separate()
    G.rotation = torch.eye(4, dtype=torch.float64)
    found = search(G)
    assert torch.equal(found.rows, torch.eye(4, dtype=torch.float64))
    assert found.notes["held_out_penalties"] == [1.0, 1.0]


def test_what_judges_is_held_out(monkeypatch):
    found, judged = [], []
    monkeypatch.setattr(orojar_module, "joint_diagonalize", lambda grams: found.append(grams) or random_rotation(4))
    energies = orojar_module.off_diagonal_energies
    noting = lambda *given: judged.append(given[0]) or energies(*given)  # noqa: E731
    monkeypatch.setattr(orojar_module, "off_diagonal_energies", noting)
    G = Deep()
    search(G, epsilon=1e-4)
    exact = exact_grams(G, G.sample_latents(24, seeded()), torch.eye(4, dtype=torch.float64))
    assert torch.allclose(found[0], exact[:16], rtol=0, atol=1e-6)
    assert all(torch.allclose(grams, exact[16:], rtol=0, atol=1e-6) for grams in judged)


def test_an_interrupted_search_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("hessian_penalty.directions.search_state.SECONDS_BETWEEN_SAVES", 0.0)
    settings = OroJaRSearch(samples=16, held_out=8, batch_size=16)
    whole = settings.search(space_of(Deep()), rng=seeded())

    class Interrupted(Deep):
        left = 9

        def __call__(self, z):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().__call__(z)

    path = tmp_path / "search.safetensors"
    with pytest.raises(KeyboardInterrupt):
        settings.search(space_of(Interrupted()), rng=seeded(), state=SearchState(path, {"id": 1}))
    kept = SearchState(path, {"id": 1})
    groups = len(kept.load())
    assert 4 <= groups < 12

    calls = []

    class Counted(Deep):
        def __call__(self, z):
            calls.append(len(z))
            return super().__call__(z)

    shown = []
    resumed = settings.search(space_of(Counted()), rng=seeded(), state=kept, progress=lambda *done: shown.append(done))
    assert torch.equal(resumed.rows, whole.rows)
    assert sum(calls) == 16 * (12 - groups) + 16  # a repeated pass, to see that G is a function
    assert shown == [(16 * (i + 1), 192) for i in range(12)]


def test_discover_orders_them():
    G = Linear()
    found = discover(G, method=OroJaRSearch(samples=8, held_out=4))
    assert found.activeness.tolist() == sorted(found.activeness.tolist(), reverse=True)
    assert found.provenance["method"] == "orojar"
    _, vectors = np.linalg.eigh((G.weight.T @ G.weight).numpy())
    assert np.abs(np.abs((found.matrix.double().numpy() * vectors.T[::-1]).sum(axis=1)) - 1).max() < 1e-6


class NotFinite(Deep):
    def __call__(self, z):
        return super().__call__(z) / 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OroJaRSearch(samples=0), "samples must be a finite number at least 1, got 0"),
        (lambda: OroJaRSearch(held_out=0), "held_out must be a finite number at least 1, got 0"),
        (lambda: OroJaRSearch(batch_size=0), "batch_size must be a finite number at least 1, got 0"),
        (lambda: OroJaRSearch(epsilon=0.0), "epsilon must be a finite number at least 1e-06, got 0"),
        (lambda: search(NotFinite()), "not finite"),
        (lambda: search(Linear(), conditions={"labels": "random"}), "sample_labels"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()
