import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hessian_penalty.directions.method import (
    Found,
    Method,
    Space,
    require_conditions,
    shifted,
    subspace_rows,
)
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def eye(n):
    return torch.eye(n, dtype=torch.float64)


class Conditional:
    """Pixels sin(z_i + label); `labels` and `phase` may be drawn."""

    latent_dim = 3
    subspaces = {"first": slice(0, 1), "ends": [0, 2], "plane": torch.tensor([[0.0, 3.0, 4.0]])}

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng, dtype=torch.float64)

    def sample_labels(self, count, rng):
        return torch.randint(0, 1000, (count,), generator=rng)

    def sample_phase(self, count, rng):
        return torch.rand(count, 1, generator=rng, dtype=torch.float64)

    def __call__(self, z, labels=None, phase=0.0):
        shift = 0 if labels is None else labels[:, None].to(z)
        return torch.sin(z + shift + phase)[:, :, None, None]


def test_sample_draws_random_conditions_and_hands_the_others_on():
    fixed = torch.tensor([7])
    space = Space(
        Conditional(), eye(3), {"labels": "random", "phase": "random", "lod": 2.0, "mode": "fast", "f": fixed}
    )
    z, drawn = space.sample(5, seeded())
    rng = seeded()
    G = Conditional()
    assert torch.equal(z, G.sample_latents(5, rng))
    assert torch.equal(drawn["labels"], G.sample_labels(5, rng))
    assert torch.equal(drawn["phase"], G.sample_phase(5, rng))
    assert (drawn["lod"], drawn["mode"]) == (2.0, "fast") and drawn["f"] is fixed


def test_sample_draws_anew_each_time():
    space, rng = Space(Conditional(), eye(3), {"labels": "random"}), seeded()
    (z, first), (other_z, second) = space.sample(6, rng), space.sample(6, rng)
    assert not torch.equal(z, other_z) and not torch.equal(first["labels"], second["labels"])
    assert space.conditions == {"labels": "random"}


def test_the_dimension_of_a_space_is_its_number_of_rows():
    assert [Space(Conditional(), eye(3)[:rows]).dim for rows in (1, 3)] == [1, 3]


@pytest.mark.parametrize("batch_size", [None, 1, 4, 9, 100])
def test_images_of_every_corner_in_order_with_the_conditions_of_the_samples(batch_size):
    G = Conditional()
    points = torch.randn(5, 4, 3, generator=seeded(), dtype=torch.float64)
    labels = torch.tensor([0, 11, 5, 8])
    found = list(Space(G, eye(3)).images(points, {"labels": labels}, batch_size))
    assert len(found) == 5
    for images, corner in zip(found, points, strict=True):
        assert torch.allclose(images, G(corner, labels=labels), rtol=0, atol=1e-15)


def test_noise_is_that_of_the_latents_and_leaves_no_trace():
    """All corners share it, and the next call at the same latents: a search can be repeated and resumed."""
    space = Space(FunctionGenerator(lambda z: z + torch.randn_like(z), 3), eye(3))
    points = torch.zeros(3, 4, 3)
    before = torch.get_rng_state()
    first, second = (torch.stack(list(space.images(points, {}, batch_size))) for batch_size in (None, 100))
    torch.manual_seed(5)
    third = torch.stack(list(space.images(points + torch.tensor([[[0.0]], [[1.0]], [[2.0]]]), {})))
    assert torch.equal(first, first[:1].expand_as(first)) and float(first.abs().min()) > 0
    assert torch.equal(first, second) and torch.allclose(third[1], first[0] + 1)
    (elsewhere,) = space.images(points[:1] + 1, {})
    assert not torch.allclose(elsewhere, first[0] + 1)
    torch.set_rng_state(before)


class Any3:
    """Three latents and any function of them."""

    latent_dim = 3

    def __init__(self, function):
        self.function = function

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 3, generator=rng)

    def __call__(self, z):
        return self.function(z)


class Counting:
    """Adds how often it was called."""

    calls = 0

    def __call__(self, z):
        self.calls += 1
        return z + self.calls


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Counting(), "an attribute of it changes with each call"),
        (lambda z: [z, z], "`G` must return one tensor of images, got 2 tensors"),
        (lambda z: "picture", "must return a tensor or a sequence of tensors, got str"),
        (lambda z: z / 0.0, r"output 0 of `G` is not finite near `z`: 6 of 6 values"),
        (lambda z: z[:1], r"one row for each of the 2 latents, got the shape \(1, 3\)"),
        (lambda z: z.half(), "must be a float32 or float64 tensor, got torch.float16"),
        (torch.nn.Linear(3, 3, dtype=torch.float64), "give both the same precision"),
    ],
)
def test_images_refuse_what_is_no_function_to_finite_images(function, message):
    space = Space(Any3(function), eye(3))
    with pytest.raises(UserError, match=message):
        list(space.images(torch.ones(2, 2, 3), {}))


def test_images_refuse_unknown_conditions():
    with pytest.raises(UserError, match="`colour` is neither an option here nor an argument of G"):
        list(Space(Conditional(), eye(3)).images(torch.ones(1, 2, 3), {"colour": 1}))


def test_an_unknown_sampler_is_named():
    space = Space(FunctionGenerator(lambda z, labels: z, 3), eye(3), {"labels": "random"})
    message = r"`labels='random'` needs a generator with `sample_labels\(count, rng\)`, which FunctionGenerator has not"
    with pytest.raises(UserError, match=message):
        space.sample(2, seeded())


def test_fingerprint_tells_generators_and_conditions_apart_and_draws_from_no_ones_numbers():
    before = torch.get_rng_state()
    first, again = Space(Conditional(), eye(3)), Space(Conditional(), eye(3)[:1])
    assert first.fingerprint() == again.fingerprint()  # the images do not depend on the subspace
    assert len(first.fingerprint()) == 12
    others = [
        Space(Conditional(), eye(3), {"phase": 0.5}),
        Space(Conditional(), eye(3), {"labels": "random"}),
        Space(FunctionGenerator(torch.cos, 3), eye(3)),
    ]
    assert len({space.fingerprint() for space in (first, *others)}) == 4
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("subspace", "components"),
    [
        (None, [0, 1, 2]),
        ("first", [0]),
        ("ends", [0, 2]),
        (slice(1, None), [1, 2]),
        (slice(None, None, -2), [2, 0]),
        (slice(-1, 3), [2]),
        (range(2), [0, 1]),
        ([2, 0], [2, 0]),
        ((1,), [1]),
        (torch.tensor([2, 1]), [2, 1]),
    ],
)
def test_subspaces_of_components(subspace, components):
    rows = subspace_rows(Conditional(), subspace)
    assert rows.dtype == torch.float64
    assert torch.equal(rows, eye(3)[components])


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_a_matrix_is_made_orthonormal_row_by_row(count):
    """Gram-Schmidt: the first m rows span what the first m given ones do, and point to their side."""
    given = torch.randn(count, 6, generator=seeded(count)) * torch.logspace(-2, 2, count)[:, None]
    rows = subspace_rows(FunctionGenerator(torch.sin, 6), given.requires_grad_())
    assert rows.dtype == torch.float64 and not rows.requires_grad
    assert torch.allclose(rows @ rows.T, eye(count), rtol=0, atol=1e-12)
    triangle = given.detach().double() @ rows.T
    assert torch.allclose(triangle @ rows, given.detach().double(), rtol=0, atol=1e-9)
    assert float(triangle.triu(1).abs().max()) < 1e-9
    assert bool((triangle.diagonal() > 0).all())


def test_a_name_may_stand_for_a_matrix():
    expected = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64)
    assert torch.allclose(subspace_rows(Conditional(), "plane"), expected, rtol=0, atol=1e-7)


COMPONENTS = r"`subspace` must name different components, each in \[0, 2\], got "


@pytest.mark.parametrize(
    ("subspace", "message"),
    [
        ("middle", "`subspace` 'middle' is unknown; this generator names: first, ends, plane."),
        ([0, 3], COMPONENTS + r"\[0, 3\]"),
        ([-1], COMPONENTS + r"\[-1\]"),
        ([1, 1], COMPONENTS + r"\[1, 1\]"),
        ([], COMPONENTS + "none"),
        (slice(3, None), COMPONENTS + "none"),
        (range(4), COMPONENTS + r"\[0, 1, 2, 3\]"),
        (torch.eye(4), "`subspace` must have rows of 3 components, got 4"),
        (torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]), "`subspace` must have linearly independent rows"),
        (torch.zeros(1, 3), "`subspace` must have linearly independent"),
        (slice(0, 99), "`subspace` 0:99 must lie in 0:3, the latents there are"),
        (torch.tensor(1), "`subspace` must be component numbers, a name or a matrix of rows, got tensor"),
        ([[1.0, 0.0], [0.0]], "`subspace` must be component numbers, a name or a matrix of rows"),
        (torch.full((1, 3), math.nan), "`subspace` must"),
        (torch.empty(0, 3), "`subspace` must"),
        (torch.cat([torch.eye(3), torch.ones(1, 3)]), "`subspace` must have linearly independent rows"),
    ],
)
def test_subspace_errors(subspace, message):
    with pytest.raises(UserError, match=message):
        subspace_rows(Conditional(), subspace)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_rows_of_any_scale_span_a_subspace(scale):
    rows = subspace_rows(Conditional(), [[1.0, 0.0, 0.0], [0.0, -scale, 0.0]])
    assert torch.equal(rows, torch.tensor([[1.0, 0, 0], [0, -1, 0]], dtype=torch.float64))


def test_a_class_number_comes_as_a_tensor():
    _, conditions = Space(Conditional(), eye(3), {"labels": 7, "phase": 2}).sample(4, seeded())
    assert torch.equal(conditions.of_samples["labels"], torch.tensor([7, 7, 7, 7]))
    assert conditions.others == {"phase": 2}


def test_a_generator_without_names_says_so():
    with pytest.raises(UserError, match="`subspace` 'coarse' is unknown; this generator names: none."):
        subspace_rows(FunctionGenerator(torch.sin, 3), "coarse")


def test_require_conditions_looks_through_a_wrapped_function():
    require_conditions(Conditional(), {"labels": 1, "phase": 0.5})
    require_conditions(FunctionGenerator(lambda z, labels: z, 3), {"labels": 1})
    require_conditions(FunctionGenerator(lambda z, **anything: z, 3), {"colour": 1})
    for G in (Conditional(), FunctionGenerator(Conditional(), 3)):
        with pytest.raises(UserError, match="`colour` is neither .* of G, which takes `labels`, `phase`; check"):
            require_conditions(G, {"labels": 1, "colour": 2})
    with pytest.raises(UserError, match="which takes no argument beside the latents"):
        require_conditions(FunctionGenerator(lambda z: z, 3), {"labels": 1})


def test_shifted_moves_along_one_row_each_by_a_uniform_amount():
    """Amounts from U(-η, η): z-scores of their mean, mean square, and of how often each row is chosen."""
    count, eta = 3000, 2.5
    along = torch.linalg.qr(torch.randn(5, 5, generator=seeded(1), dtype=torch.float64))[0][:3]
    z = torch.randn(count, 5, generator=seeded(2))
    amounts = (shifted(z, along, eta, seeded(3)) - z).double() @ along.T  # (count, 3)
    assert torch.allclose(shifted(z, along, eta, seeded(3)), z + (amounts @ along).float(), rtol=0, atol=1e-5)
    moved = amounts.abs() > 1e-5
    assert bool((moved.sum(dim=1) <= 1).all())
    size = amounts.sum(dim=1)
    assert float(size.abs().max()) <= eta * (1 + 1e-5)
    assert abs(float(size.mean())) < 4 * eta / math.sqrt(3 * count)
    assert abs(float(size.square().mean()) - eta**2 / 3) < 4 * eta**2 * math.sqrt(4 / 45 / count)
    assert bool(((moved.sum(dim=0) - count / 3).abs() < 4 * math.sqrt(count * 2 / 9)).all())


def test_shifted_keeps_precision_and_repeats():
    for dtype in (torch.float32, torch.float64):
        z = torch.zeros(4, 2, dtype=dtype)
        found = shifted(z, eye(2), 1.0, seeded())
        assert found.dtype == dtype and bool((found != 0).any(dim=1).all())
        assert torch.equal(found, shifted(z, eye(2), 1.0, seeded()))
    rng = seeded()
    assert shifted(z, eye(2), 0.0, rng) is z
    assert torch.equal(rng.get_state(), seeded().get_state())


def test_a_method_records_its_name_and_settings():
    @dataclass(frozen=True)
    class Mine(Method):
        name = "mine"
        steps: int = 3

        def search(self, space, *, rng, progress=None, state=None):
            return Found(space.rows)

    assert Mine(steps=5).record() == {"method": "mine", "settings": {"steps": 5}}
    assert Found(eye(2)).curvature is None and Found(eye(2)).notes == {}
    with pytest.raises(TypeError, match="abstract"):
        Method()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda z: z.sum(1), "`G` must return images, got one number for each latent"),
        (
            torch.nn.Linear(5, 3),
            r"The generator fails at latents of the shape \(2, 3\): mat1 .* Check the number of latents and the",
        ),
        (lambda z: z[:, [7]], r"The generator fails at latents of the shape \(2, 3\): index 7 is out of bounds"),
    ],
)
def test_a_generator_that_fails_is_told_from_a_defect(function, message):
    with pytest.raises(UserError, match=message):
        list(Space(Any3(function), eye(3)).images(torch.ones(2, 2, 3), {}))


def out_of_memory(z):
    raise torch.OutOfMemoryError("too much")


def no_memory(z):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("function", [out_of_memory, no_memory])
def test_want_of_memory_is_no_mistake_of_the_user(function):
    with pytest.raises(RuntimeError, match="too much|allocate") as caught:
        list(Space(Any3(function), eye(3)).images(torch.ones(1, 2, 3), {}))
    assert not isinstance(caught.value, UserError)


def test_passes_may_begin_with_the_noise_of_another_point():
    space, z = Space(Any3(lambda z: z + torch.randn_like(z)), eye(3)), torch.zeros(4, 3)
    (at_zero,) = space.images(z[None], {})
    (moved,) = space.images(z[None] + 1, {}, start=space.noise(z, {}))
    assert torch.allclose(moved - at_zero, torch.ones(4, 3), rtol=0, atol=1e-6)


def test_the_fingerprint_of_a_generator_with_noise_is_its_own_too():
    space = Space(Any3(lambda z: z + torch.randn_like(z)), eye(3))
    found = set()
    for seed in range(3):
        torch.manual_seed(seed)
        found.add(space.fingerprint())
    assert len(found) == 1


def test_fingerprints_tell_mirror_images_and_shapes_apart():
    functions = torch.cos, lambda z: torch.cos(z.flip(1)), lambda z: torch.cos(z)[:, None]
    assert len({Space(Any3(function), eye(3)).fingerprint() for function in functions}) == 3


def test_what_is_drawn_belongs_to_the_samples_and_what_is_given_does_not():
    """Even a given tensor that is as long as the batch happens to be."""
    fixed = torch.arange(5)
    _, drawn = Space(Conditional(), eye(3), {"labels": "random", "table": fixed}).sample(5, seeded())
    selected = drawn.select(torch.tensor([4, 1])).repeat(2)
    assert torch.equal(selected["labels"], drawn["labels"][[4, 1, 4, 1]]) and selected["table"] is fixed


def test_a_matrix_may_come_from_numpy():
    given = np.array([[0.0, 2.0, 0.0], [1.0, 1.0, 0.0]])
    assert torch.allclose(subspace_rows(Conditional(), given), eye(3)[[1, 0]], rtol=0, atol=1e-12)
