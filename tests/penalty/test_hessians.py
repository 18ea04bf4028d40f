"""Whole Hessians against autodiff, and the measures made from them against whole Hessians."""

import functools

import pytest
import torch
from torch import nn

from hessian_penalty.penalty import (
    hessian_energy,
    hessian_entries,
    hessian_penalty,
    hessians,
    mean_absolute_hessian,
)
from hessian_penalty.penalty.hessians import basis_rows

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def autodiff_hessians(G, z):
    """(batch, n, n, *output)."""
    H = torch.func.vmap(torch.func.jacrev(torch.func.jacrev(lambda row: G(row[None])[0])))(z)
    return H.movedim((-2, -1), (1, 2))


def test_hessians_agree_with_autodiff(blocks):
    z = randn(3, 4)
    expected = autodiff_hessians(blocks, z)
    assert expected.abs().max() > 0.1
    # truncation is of order epsilon^2 = 1e-6 times fourth derivatives (below 1e3), rounding 1e-15 / epsilon^2 = 1e-9
    torch.testing.assert_close(hessians(blocks, z, epsilon=1e-3), expected, rtol=0, atol=1e-3)
    error = [(hessians(blocks, z, epsilon=e) - expected).abs().max() for e in (2e-3, 1e-3)]
    assert 3.5 < error[0] / error[1] < 4.5  # second order


class Decoder(nn.Module):
    """Latents to pictures of 8 pixels through transposed and plain convolutions; smooth."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 8 * 4 * 4)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.out = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, z):
        x = torch.tanh(self.stem(z).reshape(-1, 8, 4, 4))
        x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()  # ProGAN's pixel norm
        return torch.tanh(self.out(torch.tanh(self.up(x))))


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder().double()


def test_autodiff_of_a_convolutional_network_agrees_with_torch_func_hessian(decoder):
    z = randn(3, 4)
    expected = torch.stack([torch.func.hessian(lambda row: decoder(row[None])[0])(row) for row in z])
    expected = expected.movedim((-2, -1), (1, 2))
    assert expected.abs().max() > 0.1
    H = hessians(decoder, z, method="autodiff")
    assert H.shape == (3, 4, 4, 3, 8, 8)
    torch.testing.assert_close(H, expected, rtol=1e-11, atol=1e-13)  # a few hundred roundings of 1e-16


def test_autodiff_is_the_limit_of_differences_of_order_two(decoder):
    z = randn(2, 4)
    limit = hessians(decoder, z, method="autodiff")
    error = [(hessians(decoder, z, epsilon=e) - limit).abs().max() for e in (4e-3, 2e-3)]
    assert error[0] < 1e-2 * limit.abs().max()
    assert 3.9 < error[0] / error[1] < 4.1


def test_autodiff_does_not_see_kinks():
    """|z0 + z1| at distance 0.1 of its kink: differences at 0.2 see 2 (0.4 - 0.1) / (4 * 0.2^2) in H_01."""
    z = torch.tensor([[0.05, 0.05]], dtype=F64)
    G = lambda z: (z[:, 0] + z[:, 1]).abs()  # noqa: E731
    assert hessians(G, z, method="autodiff").eq(0).all()
    assert hessians(G, z, epsilon=0.2)[0, 0, 1].item() == pytest.approx(3.75)
    assert hessians(G, z, epsilon=0.04)[0, 0, 1].item() == pytest.approx(0.0, abs=1e-12)  # out of reach


def test_autodiff_has_no_epsilon(blocks):
    z = randn(2, 4)
    one, other = (hessians(blocks, z, epsilon=e, method="autodiff") for e in (0.1, 5.0))
    assert torch.equal(one, other)


def test_autodiff_along_a_basis(blocks):
    basis = torch.linalg.qr(randn(4, 4, seed=1)).Q[:3]
    z = randn(2, 4)
    expected = torch.einsum("ai,sijp,bj->sabp", basis, autodiff_hessians(blocks, z), basis)
    torch.testing.assert_close(hessians(blocks, z, basis=basis, method="autodiff"), expected, rtol=1e-11, atol=1e-12)


def test_autodiff_of_a_sample_does_not_depend_on_the_batch(decoder):
    z = randn(3, 4)
    alone = torch.cat([hessians(decoder, row[None], method="autodiff") for row in z])
    torch.testing.assert_close(hessians(decoder, z, method="autodiff"), alone, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("chunk_size", "most"), [(None, 3), (3, 3), (24, 6), (50, 12), (1000, 30)])
def test_autodiff_takes_every_pair_once_in_passes_that_a_chunk_holds(chunk_size, most, blocks):
    """A row with its derivatives counts as four of the chunk's; 3 samples, 10 pairs."""
    rows = []

    def G(z):
        rows.append(len(z))
        return blocks(z)

    z = randn(3, 4)
    entries = list(hessian_entries(G, z, method="autodiff", chunk_size=chunk_size))
    assert [(i, j) for i, j, _ in entries] == [(i, j) for i, j, _ in hessian_entries(blocks, z)]
    assert rows[:3] == [3, 3, 3]  # at z, and twice for the check against backward passes
    assert sum(rows[3:]) == 3 * 10 and max(rows) == most
    expected = autodiff_hessians(blocks, z)
    for i, j, values in entries:
        torch.testing.assert_close(values, expected[:, i, j], rtol=1e-11, atol=1e-12)


def test_autodiff_measures_agree_with_whole_hessians(blocks):
    z = randn(3, 4)
    H = autodiff_hessians(blocks, z)
    torch.testing.assert_close(hessian_energy(blocks, z, method="autodiff"), H.square().mean(dim=(0, 3)))
    torch.testing.assert_close(mean_absolute_hessian(blocks, z, method="autodiff"), H.abs().mean(dim=(0, 3)))


def test_autodiff_leaves_modes_and_random_numbers_alone(decoder):
    state = torch.get_rng_state()
    plain = hessians(decoder.float(), randn(2, 4).float(), method="autodiff")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(hessians(decoder, randn(2, 4).float(), method="autodiff"), plain)
    with torch.inference_mode():
        assert torch.equal(hessians(decoder, randn(2, 4).float(), method="autodiff"), plain)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(
        plain.double(), hessians(decoder.double(), randn(2, 4), method="autodiff"), rtol=0, atol=1e-4
    )


def silently_wrong(z):
    """Nested forward mode of PyTorch loses a term of layer_norm's second derivative (pytorch issue 196700)."""
    return nn.functional.layer_norm(torch.stack((z[:, 0], z[:, 1] ** 2, z.sum(dim=1)), dim=1), (3,))


def elementary_layer_norm(z):
    x = torch.stack((z[:, 0], z[:, 1] ** 2, z.sum(dim=1)), dim=1)
    x = x - x.mean(dim=1, keepdim=True)
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-5).rsqrt()


def test_autodiff_refuses_what_forward_mode_gets_wrong():
    z = randn(4, 2)
    wrong = functools.partial(torch.func.jvp, lambda z: torch.func.jvp(silently_wrong, (z,), (torch.ones_like(z),))[1])
    truth = autodiff_hessians(elementary_layer_norm, z).sum(dim=(1, 2))
    torch.testing.assert_close(autodiff_hessians(silently_wrong, z).sum(dim=(1, 2)), truth)
    if torch.allclose(wrong((z,), (torch.ones_like(z),))[1], truth):
        pytest.skip("this PyTorch differentiates layer_norm correctly")
    with pytest.raises(NotImplementedError, match="`method='autodiff'` cannot be trusted with this `G`.*layer_norm"):
        hessians(silently_wrong, z, method="autodiff")
    torch.testing.assert_close(
        hessians(elementary_layer_norm, z, method="autodiff"), autodiff_hessians(elementary_layer_norm, z)
    )


class WrongForward(torch.autograd.Function):
    """z^2, whose forward-mode formula has a wrong factor."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 3 * ctx.saved_tensors[0] * tangent


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_autodiff_refuses_a_wrong_forward_formula_of_the_users_own(dtype):
    G = lambda z: WrongForward.apply(z) * z.sum(dim=1, keepdim=True)  # noqa: E731
    with pytest.raises(NotImplementedError, match="`method='autodiff'` cannot be trusted with this `G`"):
        hessians(G, randn(2, 3).to(dtype), method="autodiff")


class ForwardOnly(torch.autograd.Function):
    """z^2 without a backward pass."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0] * tangent


def in_place(z, buffer=torch.zeros(2, 3, dtype=F64)):  # noqa: B008
    buffer.copy_(z)
    return z * buffer


@pytest.mark.parametrize(
    ("G", "reason"),
    [
        (nn.functional.silu, "silu_backward"),  # no formula for its derivative's
        (in_place, "in-place operation"),
        (ForwardOnly.apply, "You must implement either the backward or vjp"),
    ],
)
def test_autodiff_refuses_what_has_no_formula(G, reason):
    z = randn(2, 3)
    message = rf"`method='autodiff'` differentiates `G` twice, which an operation of it does not allow \(.*{reason}.*"
    with pytest.raises(NotImplementedError, match=message + r"\); use method='differences'"):
        hessians(G, z, method="autodiff")
    assert hessians(G, z).isfinite().all()


@pytest.mark.parametrize(
    "G",
    [lambda z: z.detach().prod(dim=1), lambda z: torch.ones(len(z)), torch.no_grad()(lambda z: z.prod(dim=1))],
    ids=["detached", "constant", "no_grad"],
)
def test_autodiff_refuses_what_is_detached(G):
    with pytest.raises(ValueError, match="`method='autodiff'` finds no way from `z` to the output of `G`.*differences"):
        hessians(G, randn(2, 3), method="autodiff")


def test_autodiff_refuses_derivatives_that_are_not_finite():
    z = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=F64)
    G = lambda z: z.abs() ** 1.5  # noqa: E731
    with pytest.raises(ValueError, match=r"`G` is not finite in entry \(0, 0\): 1 of 4 values are .*differences"):
        hessians(G, z, method="autodiff")
    assert hessians(G, z).isfinite().all()


def test_autodiff_runs_through_dropout_and_buffers(blocks):
    """The mask is the same in all passes, as are the statistics."""
    G = nn.Sequential(blocks, nn.BatchNorm1d(3).double().eval(), nn.Dropout(0.5), nn.Tanh())
    z = randn(5, 4)
    torch.manual_seed(3)
    H = hessians(G, z, method="autodiff")
    masked = (H == 0).flatten(1, 2).all(dim=1)
    assert masked.any() and not masked.all()
    torch.manual_seed(3)
    differences = hessians(G, z, epsilon=1e-3)
    torch.testing.assert_close(H, differences, rtol=0, atol=1e-2 * H.abs().max().item())


@pytest.mark.parametrize("fit", [1, 2], ids=["forward", "backward"])
def test_running_out_of_memory_stays_what_it_is(fit):
    calls = []

    def G(z):
        calls.append(z)
        if len(calls) > fit:
            raise torch.OutOfMemoryError("full")
        return z**2

    with pytest.raises(torch.OutOfMemoryError, match="^full$"):
        hessians(G, randn(2, 3), method="autodiff")


def test_errors_of_the_generator_itself_stay_what_they_are():
    def G(z):
        raise RuntimeError("out of order")

    for method in ("differences", "autodiff"):
        with pytest.raises(RuntimeError, match="^out of order$"):
            hessians(G, randn(2, 3), method=method)


@pytest.mark.parametrize("method", ["differences", "autodiff"])
def test_image_outputs_keep_their_shape(method):
    z = randn(2, 3)
    images = lambda z: (z[:, :1] * z[:, 1:2]).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 5)  # noqa: E731
    H = hessians(images, z, method=method)
    assert H.shape == (2, 3, 3, 3, 4, 5)
    torch.testing.assert_close(H[:, 0, 1], torch.ones(2, 3, 4, 5, dtype=F64), rtol=0, atol=1e-9)


def test_basis_rotates_the_hessian(quadratic):
    G, H = quadratic(5, elements=3)
    basis = torch.linalg.qr(randn(5, 5, seed=1)).Q[:4]
    expected = torch.einsum("ai,pij,bj->abp", basis, H, basis)
    measured = hessians(G, randn(2, 5), basis=basis)
    torch.testing.assert_close(measured, expected.expand(2, -1, -1, -1), rtol=0, atol=1e-10)


def test_basis_at_finite_epsilon_is_the_rotated_generator(blocks):
    basis = torch.linalg.qr(randn(4, 4, seed=1)).Q
    w = randn(3, 4)
    rotated = hessians(lambda w: blocks(w @ basis), w, epsilon=0.3)
    torch.testing.assert_close(hessians(blocks, w @ basis, basis=basis, epsilon=0.3), rotated, rtol=0, atol=1e-12)


def test_two_latents_give_the_penalty_at_any_epsilon_and_with_kinks():
    G = lambda z: torch.relu(z @ randn(2, 7, seed=2)).sin()  # noqa: E731
    z = randn(40, 2)
    probes = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=F64)[:, None].expand(2, 40, 2)
    exact = hessian_penalty(G, z, epsilon=0.4, probes=probes, reduction="none") / 2  # two signs: (m - 1) / m = 1 / 2
    torch.testing.assert_close(2 * hessians(G, z, epsilon=0.4)[:, 0, 1] ** 2, exact, rtol=1e-9, atol=1e-12)


def test_energy_sums_to_the_expected_penalty(quadratic, rng):
    G, H = quadratic(4, elements=3)
    energy = hessian_energy(G, randn(2, 4))
    torch.testing.assert_close(energy, H.square().mean(dim=0), rtol=0, atol=1e-9)
    off_diagonal = (energy.sum() - energy.trace()).item()
    draws = hessian_penalty(G, torch.zeros(20_000, 4, dtype=F64), reduction="none", rng=rng).mean(dim=1)
    z_score = (draws.mean().item() - off_diagonal) / (draws.std().item() / len(draws) ** 0.5)
    assert abs(z_score) < 4


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 24, 31, 1000])
def test_measures_agree_with_whole_hessians_for_every_chunk_size(blocks, chunk_size):
    z = randn(3, 4)
    H = hessians(blocks, z)
    torch.testing.assert_close(hessians(blocks, z, chunk_size=chunk_size), H, rtol=0, atol=1e-11)
    options = {"chunk_size": chunk_size}
    torch.testing.assert_close(hessian_energy(blocks, z, **options), H.square().mean(dim=(0, 3)), rtol=1e-9, atol=0)
    torch.testing.assert_close(mean_absolute_hessian(blocks, z, **options), H.abs().mean(dim=(0, 3)), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("chunk_size", "most"), [(None, 3), (24, 24), (50, 48)])
def test_each_pair_is_evaluated_once_in_full_chunks(chunk_size, most):
    rows = []

    def G(z):
        rows.append(len(z))
        return z

    hessian_energy(G, randn(3, 5), chunk_size=chunk_size)
    assert sum(rows) == 3 * (1 + 2 * 5 + 4 * 10)
    assert max(rows) == most


@pytest.mark.parametrize("method", ["differences", "autodiff"])
def test_entries_come_without_graph_and_leave_the_grad_mode_alone(blocks, method):
    for entry in hessian_entries(blocks, randn(2, 4), method=method):
        assert torch.is_grad_enabled()
        assert entry.j >= entry.i and not entry.values.requires_grad


@pytest.mark.parametrize("method", ["differences", "autodiff"])
def test_conditions_follow_the_samples(method):
    labels = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    H = hessians(lambda z, labels: labels * z.prod(dim=1), randn(3, 2), chunk_size=24, method=method, labels=labels)
    torch.testing.assert_close(H[:, 0, 1], labels, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["differences", "autodiff"])
def test_one_latent_has_no_pair(method):
    energy = hessian_energy(lambda z: z**2, randn(3, 1), method=method)
    torch.testing.assert_close(energy, torch.tensor([[4.0]], dtype=F64))


def test_helpful_errors():
    z = randn(2, 3)
    with pytest.raises(ValueError, match=r"`basis` must hold one direction a row, \(count, 3\)"):
        basis_rows(z, randn(2, 4))
    with pytest.raises(ValueError, match=r"`z` must have the shape \(batch, latent\) for a Hessian, got \(2, 3, 1\)"):
        basis_rows(z[..., None], None)
    with pytest.raises(ValueError, match="`epsilon` must be a positive finite step"):
        hessian_energy(lambda z: z, z, epsilon=0.0)
    with pytest.raises(ValueError, match=r"`chunk_size` .* must be at least 1, got 0"):
        hessian_entries(lambda z: z, z, chunk_size=0)
    for measure in (hessian_entries, hessians, hessian_energy, mean_absolute_hessian):
        with pytest.raises(
            ValueError, match="`method` must be one of 'differences', 'autodiff', got 'auto'; use 'diff"
        ):
            measure(lambda z: z, z, method="auto")
    for method in ("differences", "autodiff"):
        with pytest.raises(TypeError, match="`G` must return one tensor for a Hessian, got 2"):
            hessians(lambda z: [z, z], z, method=method)
        with pytest.raises(ValueError, match="output 0 of `G` is not finite"):
            hessians(lambda z: z / 0, z, method=method)
        with pytest.raises(TypeError, match="`label` is neither"):
            hessians(lambda z: z, z, method=method, label=3)
