"""The estimator against enumeration, closed forms and its scaling laws."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hessian_penalty.penalty import hessian_penalty

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def all_signs(n, batch):
    """All 2^(n-1) sign vectors up to v -> -v, each for the whole batch: (2^(n-1), batch, n)."""
    signs = torch.tensor([(1.0, *rest) for rest in product((1.0, -1.0), repeat=n - 1)], dtype=F64)
    return signs[:, None].expand(-1, batch, -1).clone()


def exact_penalty(G, z, epsilon=0.1, **options):
    """The population variance over all signs; the estimator returns the sample variance, m / (m - 1) times it."""
    probes = all_signs(z.shape[1], z.shape[0])
    m = len(probes)
    sample = hessian_penalty(G, z, k=m, epsilon=epsilon, probes=probes, reduction="none", **options)
    return sample * (m - 1) / m


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_enumeration_gives_the_squared_off_diagonals(n, quadratic):
    G, H = quadratic(n, elements=3)
    off_diagonal = H - torch.diag_embed(H.diagonal(dim1=1, dim2=2))
    expected = off_diagonal.square().sum(dim=(1, 2)).expand(2, 3)
    # |G| is below 100: rounding 1e-16 * 100 / epsilon^2 = 1e-12 in each second difference
    torch.testing.assert_close(exact_penalty(G, randn(2, n)), expected, rtol=1e-9, atol=1e-10)


def test_product_of_two_latents_gives_two():
    penalty = exact_penalty(lambda z: z[:, 0] * z[:, 1], randn(5, 2))
    torch.testing.assert_close(penalty, torch.full((5,), 2.0, dtype=F64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
def test_quartic_gives_its_finite_epsilon_value(epsilon):
    """For G = z0^2 z1^2 / 4 and v = (1, s): G(z + eps v) + G(z - eps v) holds s only in 2 eps^2 z0 z1 s.

    Proof: ((z0 + e)(z1 + se))^2 = (z0 z1 + s e^2 + e (z1 + s z0))^2, plus the same with -e: the even part is
    2 (z0 z1 + s e^2)^2 + 2 e^2 (z1 + s z0)^2, in which s appears as 4 s e^2 z0 z1 + 4 s e^2 z0 z1. A quarter of it over
    e^2 is 2 s z0 z1, whose population variance is (2 z0 z1)^2: half of it is 2 (z0 z1)^2, whatever epsilon is.
    """
    z = randn(5, 2)
    penalty = exact_penalty(lambda z: 0.25 * z[:, 0] ** 2 * z[:, 1] ** 2, z, epsilon)
    torch.testing.assert_close(penalty, 2 * (z[:, 0] * z[:, 1]) ** 2, rtol=1e-8, atol=1e-10)


def test_kinks_are_seen_at_the_scale_epsilon():
    """|z0 + z1| at 0: v = (1, 1) gives 4 eps, v = (1, -1) gives 0; var of {4/eps, 0} is 4/eps^2, half is 2/eps^2."""
    penalty = exact_penalty(lambda z: (z[:, 0] + z[:, 1]).abs(), torch.zeros(1, 2, dtype=F64), epsilon=0.5)
    torch.testing.assert_close(penalty, torch.tensor([2 / 0.25], dtype=F64))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 6), k=st.integers(2, 5), seed=st.integers(0, 10_000))
def test_sum_of_functions_of_one_latent_gives_zero(n, k, seed):
    penalty = hessian_penalty(
        lambda z: (z.sin() + z**3 + z.abs()).sum(dim=1), randn(3, n, seed=seed), k=k, reduction="none"
    )
    assert penalty.max() < 1e-20  # (1e-16 * 10 / epsilon^2)^2


@pytest.mark.parametrize("k", [2, 3, 7])
def test_mean_is_unbiased(k, quadratic, rng):
    G, H = quadratic(5, elements=1)
    expected = (H.square().sum() - H.diagonal(dim1=1, dim2=2).square().sum()).item()
    draws = hessian_penalty(G, torch.zeros(20_000, 5, dtype=F64), k=k, reduction="none", rng=rng).flatten()
    z_score = (draws.mean().item() - expected) / (draws.std().item() / len(draws) ** 0.5)
    assert abs(z_score) < 4  # a population variance would be off by a factor (k - 1) / k, dozens of standard errors


def test_probes_are_independent_between_samples(quadratic, rng):
    G, _ = quadratic(6, elements=1)
    draws = hessian_penalty(G, torch.zeros(64, 6, dtype=F64), reduction="none", rng=rng)
    assert draws.unique().numel() > 10


@settings(max_examples=20, deadline=None)
@given(c=st.floats(-50, 50).filter(lambda c: abs(c) > 0.02), reduction=st.sampled_from(["max", "mean"]))
def test_scaling_the_output_scales_the_penalty_by_the_square(c, reduction):
    z, probes = randn(4, 3), randn(3, 4, 3, seed=1).sign()
    G = lambda z: (z.prod(dim=1, keepdim=True) * z).sin()  # noqa: E731
    one, scaled = (hessian_penalty(f, z, k=3, reduction=reduction, probes=probes) for f in (G, lambda z: c * G(z)))
    torch.testing.assert_close(scaled, c**2 * one, rtol=1e-8, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), reduction=st.sampled_from(["max", "mean"]))
def test_order_of_samples_and_of_latents_does_not_matter(seed, reduction):
    z, probes, order = randn(5, 4, seed=seed), randn(2, 5, 4, seed=seed + 1).sign(), torch.randperm(5)
    latents = torch.randperm(4)
    G = lambda z: (z[:, :3] * z[:, 1:]).exp()  # noqa: E731
    value = hessian_penalty(G, z, reduction=reduction, probes=probes)
    by_sample = hessian_penalty(G, z[order], reduction=reduction, probes=probes[:, order])
    torch.testing.assert_close(by_sample, value, rtol=1e-9, atol=1e-12)
    renamed = lambda z: G(z[:, latents.argsort()])  # noqa: E731
    by_latent = hessian_penalty(renamed, z[:, latents], reduction=reduction, probes=probes[..., latents])
    torch.testing.assert_close(by_latent, value, rtol=1e-9, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(chunk_size=st.integers(1, 40), k=st.integers(2, 4), reduction=st.sampled_from(["max", "mean"]))
def test_chunk_size_does_not_change_the_value(chunk_size, k, reduction):
    z, probes = randn(3, 4), randn(k, 3, 4, seed=1).sign()
    labels = torch.arange(3)
    rows = []

    def G(z, labels):
        rows.append(len(z))
        return (z[:, :3] * z[:, 1:]).exp() * (1 + labels[:, None])

    options = {"k": k, "reduction": reduction, "probes": probes, "labels": labels}
    with torch.no_grad():
        hessian_penalty(G, z, **options)  # the first call for a G makes sure that it is a function
        rows.clear()
        whole = hessian_penalty(G, z, **options)
        assert rows == [3] * 2 * k  # one corner a pass, and no evaluation at z itself
        rows.clear()
        chunked = hessian_penalty(G, z, chunk_size=chunk_size, **options)
    torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-12)
    assert sum(rows) == 3 * 2 * k and max(rows) <= max(3, chunk_size)
    assert len(rows) == -(-2 * k // max(1, chunk_size // 3))


def test_further_latent_dimensions_are_components(quadratic):
    G, _ = quadratic(6, elements=2)
    z, probes = randn(3, 2, 3), randn(2, 3, 2, 3, seed=1).sign()
    grouped = hessian_penalty(lambda z: G(z.flatten(1)), z, probes=probes)
    torch.testing.assert_close(grouped, hessian_penalty(G, z.flatten(1), probes=probes.flatten(2)))


def test_reductions_agree_with_the_elements():
    z, probes = randn(4, 3), randn(2, 4, 3, seed=1).sign()
    G = lambda z: torch.stack((z.prod(dim=1), z[:, 0] * z[:, 1]), dim=1)[:, :, None]  # noqa: E731
    elements = hessian_penalty(G, z, probes=probes, reduction="none")
    assert elements.shape == (4, 2, 1)
    assert hessian_penalty(G, z, probes=probes) == elements.max()
    assert hessian_penalty(G, z, probes=probes, reduction="mean") == elements.mean()
    assert hessian_penalty(G, z, probes=probes, reduction=torch.median) == elements.median()


def test_several_outputs_are_summed_after_their_own_reduction():
    z, probes = randn(4, 3), randn(2, 4, 3, seed=1).sign()
    first, second = (lambda z: z.prod(dim=1)), (lambda z: z[:, :2] * z[:, 1:])
    both = lambda z: (first(z), second(z))  # noqa: E731
    for reduction in ("max", "mean"):
        parts = [hessian_penalty(G, z, probes=probes, reduction=reduction) for G in (first, second)]
        torch.testing.assert_close(hessian_penalty(both, z, probes=probes, reduction=reduction), sum(parts))
    elements = hessian_penalty(both, z, probes=probes, reduction="none")
    assert [tuple(e.shape) for e in elements] == [(4,), (4, 2)]


def test_rng_fixes_the_probes_and_leaves_the_global_generator_alone():
    z, G = randn(4, 6), lambda z: z.prod(dim=1)
    state = torch.get_rng_state()
    a, b, c = (hessian_penalty(G, z, reduction="none", rng=torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradient_of_the_dense_form_is_that_of_the_closed_form():
    """G = w z0 z1: for v = (1, 1) and (1, -1) the estimate is (2w - -2w)^2 / 4 = 4 w^2, its derivative 8 w."""
    w = torch.tensor(1.5, dtype=F64, requires_grad=True)
    probes = all_signs(2, 1)
    penalty = hessian_penalty(
        lambda z: w * z[:, 0] * z[:, 1], torch.zeros(1, 2, dtype=F64), probes=probes, gradient="dense"
    )
    penalty.backward()
    torch.testing.assert_close(w.grad, torch.tensor(12.0, dtype=F64))


def test_autocast_around_the_penalty_has_no_effect():
    torch.manual_seed(0)
    G = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    z, probes = torch.randn(8, 4), torch.randn(2, 8, 4).sign()
    plain = hessian_penalty(G, z, probes=probes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert G(z).dtype == torch.bfloat16
        assert hessian_penalty(G, z, probes=probes) == plain


def test_float32_agrees_with_float64():
    torch.manual_seed(0)
    G = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    z, probes = torch.randn(8, 4), torch.randn(2, 8, 4).sign()
    single = hessian_penalty(G, z, probes=probes)
    double = hessian_penalty(G.double(), z.double(), probes=probes.double())
    assert double > 0.01  # second differences are off by about 1e-7 / epsilon^2 = 1e-5, against a root above 0.1
    torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=0)
