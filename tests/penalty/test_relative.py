"""The penalty relative to the curvature: the share of it that latents have in common, whatever its size."""

import math

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import CollapsedError, HessianPenalty, OroJaR, hessian_penalty, orojar

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


Z, PROBES = randn(8, 4), randn(2, 8, 4, seed=1).sign()
HESSIANS = (matrices := randn(5, 4, 4, seed=2)) + matrices.mT
SLOPES = randn(5, 4, seed=3)


def quadratic(z):
    """Five elements with known Hessians, the same everywhere."""
    return torch.einsum("ni,pij,nj->np", z, HESSIANS, z) / 2 + z @ SLOPES.T


def off_diagonal(matrices):
    return matrices.square().sum(dim=(-1, -2)) - matrices.diagonal(dim1=-1, dim2=-2).square().sum(dim=-1)


def all_signs(n, rows):
    """Every sign vector once, for each row."""
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0], dtype=F64)] * n)
    return signs[:, None].expand(-1, rows, -1)


def test_mean_is_the_penalty_over_squared_trace_and_twice_the_penalty():
    probes = all_signs(4, len(Z))
    value = hessian_penalty(quadratic, Z, k=16, probes=probes, reduction="mean", relative=True)
    penalty, trace = off_diagonal(HESSIANS), HESSIANS.diagonal(dim1=1, dim2=2).sum(dim=1)
    # 16/15: the variance over all 16 sign vectors is taken as if they were drawn
    torch.testing.assert_close(value, 16 / 15 * penalty.mean() / (trace.square() + 2 * penalty).mean())


@pytest.mark.parametrize("k", [2, 3, 5])
def test_value_from_the_second_derivatives_along_given_probes(k):
    probes = randn(k, 8, 4, seed=4).sign()
    along = torch.einsum("kni,pij,knj->knp", probes, HESSIANS, probes)
    elements = along.var(dim=0) / 2 / along.square().mean()
    for reduction, expected in (("none", elements), ("mean", elements.mean()), ("max", elements.max())):
        value = hessian_penalty(quadratic, Z, k=k, probes=probes, reduction=reduction, relative=True)
        torch.testing.assert_close(value, expected)


def test_each_output_has_a_curvature_of_its_own(blocks):
    options = {"probes": PROBES, "reduction": "mean", "relative": True}
    value = hessian_penalty(lambda z: [1e3 * quadratic(z), blocks(z)], Z, **options)
    torch.testing.assert_close(value, sum(hessian_penalty(G, Z, **options) for G in (quadratic, blocks)))


def test_groups_count_the_curvature_within_them():
    probes = all_signs(4, 2000)
    z = randn(2000, 4, seed=5)
    labels = torch.tensor([0, 0, 1, 1])
    value = hessian_penalty(
        quadratic, z, k=16, probes=probes, reduction="mean", groups=labels, relative=True,
        rng=torch.Generator().manual_seed(0),
    )  # fmt: skip
    blocks = torch.stack((HESSIANS[:, :2, :2], HESSIANS[:, 2:, 2:]))
    penalty, trace = off_diagonal(blocks), blocks.diagonal(dim1=-1, dim2=-2).sum(dim=-1)
    expected = 16 / 15 * penalty.mean() / (trace.square() + 2 * penalty).mean()
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0)  # 1000 ± 22 draws of each group


@pytest.mark.parametrize("penalty", [hessian_penalty, orojar])
@pytest.mark.parametrize("reduction", ["max", "mean", torch.median])
def test_scale_of_images_and_of_the_code_neither_changes_the_value_nor_has_a_gradient(blocks, penalty, reduction):
    scale = torch.ones(2, dtype=F64, requires_grad=True)

    def value():
        c, s = scale
        options = {"probes": PROBES, "reduction": reduction, "scale_epsilon": True, "relative": True}
        return penalty(lambda z: c * blocks(z / s), Z * s, **options)

    before = value()
    assert before > 1e-3
    (pull,) = torch.autograd.grad(before, scale)
    assert pull.abs().max() < 1e-9
    with torch.no_grad():
        scale.copy_(torch.tensor([1e-3, 50.0]))
    torch.testing.assert_close(value(), before.detach(), rtol=1e-6, atol=0)


def test_bending_less_wins_nothing_where_the_plain_and_the_scale_free_form_fall():
    bend = torch.ones((), dtype=F64, requires_grad=True)
    G = lambda z: z @ SLOPES.T + bend * quadratic(z)  # noqa: E731
    for options, pull in (({}, 1e-2), ({"scale_free": True}, 1e-2), ({"relative": True}, 0.0)):
        value = hessian_penalty(G, Z, probes=PROBES, reduction="mean", **options)
        (slope,) = torch.autograd.grad(value, bend)
        assert slope > pull if pull else abs(slope) < 1e-10


def test_it_is_zero_where_latents_act_one_by_one_and_half_where_nothing_else_bends():
    options = {"reduction": "mean", "relative": True, "probes": all_signs(2, 3), "k": 4}
    z = randn(3, 2)
    assert hessian_penalty(lambda z: z[:, 0] ** 2 + z[:, 1].exp(), z, **options) < 1e-18
    product = hessian_penalty(lambda z: z[:, 0] * z[:, 1], z, **options)
    torch.testing.assert_close(product, torch.tensor(4 / 3 / 2, dtype=F64))  # 4/3: as above
    assert orojar(lambda z: z, z, **options) < 1e-18


def test_orojar_relative_to_the_norm_of_the_jacobian():
    probes = all_signs(4, len(Z))
    value = orojar(lambda z: z @ SLOPES.T, Z, k=16, probes=probes, reduction="mean", relative=True)
    gram = SLOPES.T @ SLOPES
    torch.testing.assert_close(
        value, 16 / 15 * off_diagonal(gram) / (gram.trace() ** 2 + 2 * off_diagonal(gram))
    )  # fmt: skip


@pytest.mark.parametrize("kind", [HessianPenalty, OroJaR])
@pytest.mark.parametrize("layers", [None, "act"])
def test_the_training_steps_own_pass_serves_as_the_centre(blocks, kind, layers):
    penalty = kind(blocks, weight=1.0, layers=layers, reduction="mean", relative=True)
    rng = torch.Generator().manual_seed(0)
    expected = penalty(Z, rng=rng)
    passes = []
    hook = blocks.register_forward_pre_hook(lambda *_: passes.append(1))
    penalty.generate(Z)
    rng.manual_seed(0)
    value = penalty(Z, rng=rng)
    hook.remove()
    torch.testing.assert_close(value, expected)
    assert len(passes) == {HessianPenalty: 1 + 4, OroJaR: 1 + 2}[kind]


def test_gradient_is_that_of_the_quotient(blocks):
    def value():
        return hessian_penalty(blocks, Z, probes=PROBES, reduction="mean", relative=True)

    weight = next(blocks.parameters())
    (found,) = torch.autograd.grad(value(), weight)
    with torch.no_grad():
        step = 1e-6
        weight[0, 0] += step
        after = value()
        weight[0, 0] -= 2 * step
        before = value()
    torch.testing.assert_close(found[0, 0], (after - before) / (2 * step), rtol=1e-5, atol=1e-8)


def test_descent_turns_the_latents_and_leaves_the_bend():
    """A separable function behind a rotation and a bend: the relative form undoes the one and keeps the other."""
    left = {}
    for form in ("plain", "relative"):
        angle = torch.tensor(0.4, dtype=F64, requires_grad=True)
        bend = torch.ones((), dtype=F64, requires_grad=True)

        def G(z, angle=angle, bend=bend):
            x = angle.cos() * z[:, 0] - angle.sin() * z[:, 1]
            y = angle.sin() * z[:, 0] + angle.cos() * z[:, 1]
            return torch.stack((x + y, x + bend * x**2, y - bend * y**2), dim=1)

        optimizer = torch.optim.SGD([angle, bend], lr=0.02)
        for step in range(100):
            optimizer.zero_grad()
            probes = randn(2, 8, 2, seed=step).sign()
            hessian_penalty(
                G, Z[:, :2], probes=probes, reduction="mean", relative=form == "relative"
            ).backward()  # fmt: skip
            optimizer.step()
        left[form] = abs(angle.item()), bend.item()
    assert left["relative"][0] < 0.02 and abs(left["relative"][1] - 1) < 1e-6
    assert left["plain"][1] < 0.9


class TestHelpfulErrors:
    def test_no_curvature(self):
        with pytest.raises(
            CollapsedError, match="`relative` divides by the curvature, but that of output 1 of `G` is 0"
        ):
            hessian_penalty(lambda z: [z.exp(), z * 0], Z, relative=True)

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"scale_free": True}, "`relative` and `scale_free` exclude each other"),
            ({"gradient": "sparse"}, "`relative` divides by a mean over all samples"),
        ],
    )
    def test_what_does_not_go_together(self, options, told):
        with pytest.raises(ValueError, match=told):
            HessianPenalty(nn.Identity(), relative=True, **options)


def test_rounding_leaves_its_value_alone():
    """In float32 a curvature of the size of the images stands far above rounding."""
    options = {"reduction": "mean", "relative": True}
    exact = hessian_penalty(quadratic, Z, probes=PROBES, **options)
    single = hessian_penalty(lambda z: quadratic(z.double()).float(), Z.float(), probes=PROBES.float(), **options)
    assert math.isclose(single.item(), exact.item(), rel_tol=1e-3)
