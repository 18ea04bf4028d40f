"""What the penalty refuses and what it passes on: settings, latents, probes, outputs, conditions."""

import functools

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import hessian_penalty
from hessian_penalty.penalty.conditions import Conditions
from hessian_penalty.penalty.evaluation import Evaluator, Passes, check_latents
from hessian_penalty.penalty.precision import full_precision
from hessian_penalty.penalty.probes import check_probes

F64 = torch.float64
Z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=F64)


def identity(z):
    return z


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 1}, "`k` must be at least 2 to estimate a variance, got 1"),
        ({"epsilon": 0.0}, "`epsilon` must be a positive finite step, got 0.0"),
        ({"epsilon": -0.1}, "`epsilon` must be a positive finite step, got -0.1"),
        ({"epsilon": float("nan")}, "`epsilon` must be a positive finite step, got nan"),
        ({"epsilon": float("inf")}, "`epsilon` must be a positive finite step, got inf"),
        ({"reduction": "sum"}, "`reduction` must be one of 'max', 'mean', 'none' or a callable .* got 'sum'"),
        ({"gradient": "full"}, "`gradient` must be one of 'auto', 'sparse', 'dense', got 'full'"),
        (
            {"gradient": "sparse", "reduction": "mean"},
            "`gradient='sparse'` needs `reduction='max'`.*use gradient='dense'",
        ),
        ({"chunk_size": 0}, "`chunk_size` .* must be at least 1, got 0"),
        ({"reduction": lambda x: x}, r"`reduction` must map a tensor to a scalar tensor, got the shape \(3, 4\)"),
        ({"reduction": lambda x: 3.0}, "`reduction` must map a tensor to a scalar tensor, got float"),
        ({"probes": torch.ones(3, 3, 4, dtype=F64)}, r"`probes` must have the shape .* \(2, 3, 4\), got \(3, 3, 4\)"),
        ({"probes": torch.full((2, 3, 4), 0.5, dtype=F64)}, "`probes` must hold signs, 1 or -1.* from 0.5 to 0.5"),
    ],
)
def test_helpful_errors_for_options(options, message):
    with pytest.raises(ValueError, match=message):
        hessian_penalty(identity, Z, **options)


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(3, dtype=F64), ValueError, r"`z` must have the shape \(batch, latent\).*got \(3,\)"),
        (torch.zeros(0, 4, dtype=F64), ValueError, r"at least one of each, got \(0, 4\)"),
        (torch.zeros(3, 0, dtype=F64), ValueError, r"at least one of each, got \(3, 0\)"),
        (torch.zeros(3, 4, dtype=torch.int64), TypeError, "`z` must be float32 or float64.* got torch.int64"),
        (torch.zeros(3, 4, dtype=torch.bfloat16), TypeError, "`z` must be float32 or float64.* got torch.bfloat16"),
    ],
)
def test_helpful_errors_for_latents(z, error, message):
    with pytest.raises(error, match=message):
        check_latents(z)
    if z.is_floating_point():
        with pytest.raises(error, match=message):
            hessian_penalty(identity, z)


def test_probes_of_other_latents_are_refused():
    with pytest.raises(ValueError, match=r"`probes` must have the shape .* \(2, 3, 4\), got \(2, 3, 5\)"):
        check_probes(torch.ones(2, 3, 5), Z, k=2)
    assert check_probes(torch.ones(2, 3, 4, dtype=torch.int8), Z, k=2).dtype == F64


@pytest.mark.parametrize(
    ("G", "error", "message"),
    [
        (lambda z: None, TypeError, "`G` must return a tensor or a sequence of tensors, got NoneType"),
        (lambda z: {"image": z}, TypeError, "`G` must return a tensor or a sequence of tensors, got dict"),
        (lambda z: [], TypeError, "`G` must return a tensor or a sequence of tensors, got list"),
        (lambda z: [z, 3.0], TypeError, "output 1 of `G` must be a float32 or float64 tensor, got float"),
        (lambda z: z.half(), TypeError, r"output 0 of `G` must be a float32 or float64 tensor, got torch\.float16"),
        (lambda z: z.long(), TypeError, r"output 0 of `G` must be a float32 or float64 tensor, got torch\.int64"),
        (lambda z: z.mean(), ValueError, r"output 0 of `G` must have one row for each of the 3 latents, got .* \(\)"),
        (lambda z: z.T, ValueError, r"output 0 of `G` must have one row for each of the 3 latents, got .* \(4, 3\)"),
    ],
)
@pytest.mark.parametrize("gradient", ["sparse", "dense"])
def test_helpful_errors_for_outputs(G, error, message, gradient):
    with pytest.raises(error, match=message):
        hessian_penalty(G, Z, gradient=gradient)


@pytest.mark.parametrize("gradient", ["sparse", "dense"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite_are_refused(gradient, bad):
    def G(z):
        broken = z.clone()
        broken[1, 2] = bad
        return [z, broken]

    with pytest.raises(ValueError, match="output 1 of `G` is not finite near `z`: 1 of 12 values"):
        hessian_penalty(G, Z, gradient=gradient)


def test_a_changing_number_of_outputs_is_refused():
    counts = iter([1, 2, 1, 1])
    with pytest.raises(ValueError, match="`G` must return as many outputs in every pass, got 1 and then 2"):
        hessian_penalty(lambda z: [z] * next(counts), Z, gradient="dense")


class Conditional(nn.Module):
    def forward(self, z, labels=None, *, lod=0.0):
        return z if labels is None else z * labels[:, None]


class Greedy(nn.Module):
    def forward(self, z, **extras):
        return z


@pytest.mark.parametrize(
    ("G", "conditions", "message"),
    [
        (
            Conditional(),
            {"label": 3},
            "`label` is neither an option here nor an argument of G, which takes `labels`, `lod`",
        ),
        (identity, {"epsilonn": 3}, "`epsilonn` is neither .* takes no argument beside the latents"),
        (lambda z, a: z, {"a": 1, "b": 2, "c": 3}, "`b`, `c` is neither"),
        (lambda latents, a: latents, {"latents": 1}, "`latents` is neither"),
        (functools.partial(lambda z, a, b: z, b=1), {"c": 3}, "`c` is neither .* takes `a`, `b`"),
    ],
)
def test_unknown_conditions_are_refused_by_name(G, conditions, message):
    with pytest.raises(TypeError, match=message):
        hessian_penalty(G, Z, **conditions)


@pytest.mark.parametrize(
    ("G", "conditions"),
    [
        (Conditional(), {"labels": torch.ones(3, dtype=F64), "lod": 2.0}),
        (Greedy(), {"anything": 1}),
        (lambda z, **extras: z, {"anything": 1}),
        (torch.add, {"other": torch.ones(3, 4, dtype=F64)}),  # a built-in without a signature
    ],
)
def test_known_conditions_reach_the_generator(G, conditions):
    assert hessian_penalty(G, Z, **conditions) < 1e-20


def test_conditions_follow_the_samples_and_others_do_not():
    values = {"labels": torch.tensor([3, 5, 7]), "table": torch.ones(2, 3), "scalar": torch.tensor(3), "lod": 1.5}
    conditions = Conditions.for_batch(values, batch=3)
    repeated = conditions.repeat(2)
    assert repeated["labels"].tolist() == [3, 5, 7, 3, 5, 7]
    assert all(repeated[name] is values[name] for name in ("table", "scalar", "lod"))
    chosen = conditions.select(torch.tensor([2, 0]))
    assert chosen.repeat(1)["labels"].tolist() == [7, 3]
    assert chosen.repeat(1)["table"] is values["table"]
    assert chosen.repeat(2)["labels"].tolist() == [7, 3, 7, 3]


def test_selecting_as_many_samples_as_the_table_has_rows_leaves_the_table_alone():
    """Two samples are chosen of three, and a table of two rows is no tensor of samples for all that."""
    values = {"table": torch.tensor([10, 20]), "labels": torch.tensor([3, 5, 7])}
    repeated = Conditions.for_batch(values, batch=3).select(torch.tensor([0, 2])).repeat(2)
    assert repeated["table"].tolist() == [10, 20]
    assert repeated["labels"].tolist() == [3, 7, 3, 7]


def test_sparse_gradient_selects_the_conditions_of_its_samples():
    labels = torch.tensor([1.0, 9.0, 2.0], dtype=F64)
    seen = []

    def G(z, labels):
        seen.append(labels.unique().tolist())
        return labels * z.prod(dim=1)

    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 3, 2)
    value = hessian_penalty(G, Z[:, :2], probes=probes, labels=labels)
    torch.testing.assert_close(value, torch.tensor(4 * 81.0, dtype=F64))
    assert seen[-1] == [9.0]


def test_corners_come_in_order_with_their_outputs():
    points = torch.arange(5, dtype=F64)[:, None, None].expand(5, 3, 4)
    passes = Passes(Evaluator(lambda z: (z, z[:, :1] * 10)), points[0], {})
    for chunk_size in (None, 2, 6, 7, 100):
        corners = list(passes.at(points, chunk_size=chunk_size))
        assert [[tuple(o.shape) for o in outputs] for outputs in corners] == [[(3, 4), (3, 1)]] * 5
        assert [float(outputs[1][0]) for outputs in corners] == [0, 10, 20, 30, 40]
    assert [len(outputs) for outputs in passes.at(points, most_outputs=1)] == [1] * 5


def test_reduced_precision_is_off_inside_and_restored_afterwards():
    def state():
        backends = torch.backends
        new = [backends.cudnn.conv, backends.mkldnn.matmul] if hasattr(backends.cudnn, "conv") else []
        return [backends.cuda.matmul.allow_tf32, *(operator.fp32_precision for operator in new)]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        outside = state()
        with pytest.raises(RuntimeError, match="inside"), full_precision("cpu"):
            inside = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
            raise RuntimeError("inside")
        assert inside == (False, False)
        assert outside[0] is True and state() == outside
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
