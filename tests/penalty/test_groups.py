"""Pairs of components within groups: rows of w+, chunks of a hierarchical latent."""

import pytest
import torch

from hessian_penalty.penalty import hessian_penalty, orojar
from hessian_penalty.penalty.probes import draw_groups

F64 = torch.float64


def quadratic(shape, seed=0):
    """z -> z^T H z / 2 for one random symmetric H over all components of a sample, and H."""
    n = torch.Size(shape).numel()
    H = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=F64)
    H = H + H.T
    return lambda z: torch.einsum("si,ij,sj->s", z.flatten(1), H, z.flatten(1)) / 2, H


def within(H, labels):
    """The sum of squared entries of pairs of the same group."""
    labels = labels.flatten()
    same = (labels[:, None] == labels[None]) & ~torch.eye(len(labels), dtype=torch.bool)
    return float((H.square() * same).sum())


ROWS = torch.arange(3)[:, None].expand(3, 4)
CHUNKS = torch.tensor([5, 5, 5, -1, -1, 9])


@pytest.mark.parametrize(("groups", "labels"), [("rows", ROWS), (ROWS, ROWS), (CHUNKS, CHUNKS)])
def test_mean_is_the_sum_over_the_groups(groups, labels):
    G, H = quadratic(labels.shape)
    z = torch.zeros(40_000, *labels.shape, dtype=F64)
    draws = hessian_penalty(G, z, groups=groups, reduction="none", rng=torch.Generator().manual_seed(0))
    z_score = (draws.mean() - within(H, labels)) / (draws.std() / len(draws) ** 0.5)
    assert abs(z_score) < 4
    everything = hessian_penalty(G, z, reduction="mean", rng=torch.Generator().manual_seed(0))
    assert draws.mean() < 0.6 * everything  # the pairs across groups are most of it


def test_pairs_across_groups_do_not_count():
    z = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    across = lambda z: z[:, 0].sum(dim=1) * z[:, 1].sum(dim=1)  # noqa: E731
    assert hessian_penalty(across, z, groups="rows") < 1e-18
    assert hessian_penalty(across, z) > 1


def test_a_callable_reduction_sees_the_penalties_of_all_groups():
    G, _ = quadratic((3, 4))
    z = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    elements, reduced = (
        hessian_penalty(G, z, groups="rows", reduction=how, rng=torch.Generator().manual_seed(1))
        for how in ("none", lambda e: e.square().mean())
    )
    torch.testing.assert_close(reduced, elements.square().mean())


def test_sparse_equals_dense():
    G, _ = quadratic((3, 4))
    z = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    values = [
        hessian_penalty(G, z.requires_grad_(), groups="rows", gradient=how, rng=torch.Generator().manual_seed(1))
        for how in ("sparse", "dense")
    ]
    torch.testing.assert_close(values[0], values[1])


def test_orojar_takes_groups():
    J = torch.randn(7, 12, generator=torch.Generator().manual_seed(0), dtype=F64)
    gram = J.T @ J
    z = torch.zeros(40_000, 3, 4, dtype=F64)
    draws = orojar(
        lambda z: z.flatten(1) @ J.T, z, groups="rows", reduction="none", rng=torch.Generator().manual_seed(0)
    )
    z_score = (draws.mean() - within(gram, ROWS)) / (draws.std() / len(draws) ** 0.5)
    assert abs(z_score) < 4


def test_every_group_is_drawn_alike():
    mask, count = draw_groups(torch.zeros(30_000, 6), CHUNKS, torch.Generator().manual_seed(0))
    assert count == 3
    for members in ([0, 1, 2], [3, 4], [5]):
        drawn = mask[:, members]
        assert (drawn == drawn[:, :1]).all()
        assert abs(drawn[:, 0].mean() - 1 / 3) < 4 * (2 / 9 / 30_000) ** 0.5
    assert (mask.sum(dim=1) > 0).all()


@pytest.mark.parametrize(
    ("z", "groups", "message"),
    [
        (
            torch.zeros(2, 4),
            "rows",
            r"`groups` must be 'rows', for `z` of the shape .* got 'rows' and the shape \(2, 4\)",
        ),
        (torch.zeros(2, 3, 4), "layers", "got 'layers' and the shape"),
        (torch.zeros(2, 4), torch.arange(3), r"the shape \(4,\), got torch.int64 of the shape \(3,\)"),
        (torch.zeros(2, 4), torch.zeros(4), r"one whole number for each component .* got torch.float32"),
    ],
)
def test_helpful_errors(z, groups, message):
    with pytest.raises(ValueError, match=message):
        hessian_penalty(lambda z: z.flatten(1), z, groups=groups)
