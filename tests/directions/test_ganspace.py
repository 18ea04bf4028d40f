import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.ganspace import GANSpaceSearch
from hessian_penalty.directions.method import Space, subspace_rows
from hessian_penalty.directions.search_state import SearchState
from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.progan import ProGANConfig, ProGANGenerator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def whitened(samples, dim, rng):
    """Latents whose sample covariance is the identity, and whose mean is 0, up to rounding."""
    z = torch.randn(samples, dim, generator=rng, dtype=torch.float64)
    if samples == 1:
        return z  # only asked for its size
    z = z - z.mean(dim=0)
    return z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / samples)).T


WEIGHT = normal(12, 4, seed=1)
ROOT = normal(4, 4, seed=2)


def linear(z, labels=None):
    return (z @ WEIGHT.T).reshape(-1, 3, 2, 2)


def space_of(G, subspace=None, **conditions):
    return Space(G, subspace_rows(G, subspace), conditions)


def search(G, *, seed=0, subspace=None, conditions=None, **settings):
    settings = {"samples": 300, **settings}
    return GANSpaceSearch(**settings).search(space_of(G, subspace, **(conditions or {})), rng=seeded(seed))


def largest_difference(found, expected):
    """Up to signs, row by row."""
    signs = (found * expected).sum(dim=1, keepdim=True).sign()
    return float((found * signs - expected).abs().max())


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


def test_of_a_linear_generator_with_white_latents_it_finds_the_right_singular_vectors():
    G = FunctionGenerator(linear, sample=lambda count, rng: whitened(count, 4, rng))
    found = search(G)
    assert largest_difference(found.rows, torch.linalg.svd(WEIGHT).Vh) < 1e-9
    assert found.notes == {"layer": "images", "features": 12, "evaluations": 300}


def test_with_latents_of_a_known_covariance():
    """cov z = L L^T: y = W L e with e white has v_k, left singular vectors of W L, and u_k ∝ L L^T W^T v_k."""
    G = FunctionGenerator(linear, sample=lambda count, rng: whitened(count, 4, rng) @ ROOT.T)
    left, _, _ = np.linalg.svd((WEIGHT @ ROOT).numpy(), full_matrices=False)
    expected = unit(torch.from_numpy(left.T) @ WEIGHT @ ROOT @ ROOT.T)
    found = search(G).rows
    assert largest_difference(found, expected) < 1e-9
    assert float((found @ found.T - torch.eye(4, dtype=torch.float64)).abs().max()) > 0.1  # as the class says


def test_a_subspace_gets_the_projection():
    G = FunctionGenerator(linear, sample=lambda count, rng: whitened(count, 4, rng))
    plane = torch.tensor([[1.0, 1, 0, 0], [0.0, 1, 2, 3]])
    rows = subspace_rows(G, plane)
    expected = unit(torch.linalg.svd(WEIGHT).Vh[:2] @ rows.T @ rows)
    assert largest_difference(search(G, subspace=plane).rows, expected) < 1e-9


@pytest.mark.parametrize("batch_size", [1, 17, 1000])
def test_the_result_does_not_depend_on_the_batch_size(batch_size):
    G = FunctionGenerator(lambda z: torch.sin(linear(z)), sample=lambda count, rng: whitened(count, 4, rng))
    assert largest_difference(search(G, batch_size=batch_size).rows, search(G).rows) < 1e-9


class Net(nn.Module):
    """Layers that a choice can go wrong with: an embedding of labels that runs first, one that never runs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.latent_dim = 4
        self.unused = nn.Linear(4, 4)
        self.embedding = nn.Embedding(10, 3)
        self.scaling = nn.utils.parametrizations.weight_norm(nn.Linear(4, 6, bias=False))
        self.second = nn.Linear(6 + 3, 12)
        self.pair = Pair()
        self.unflatten = nn.Unflatten(1, (3, 2, 2))
        self.double()
        self.log = []
        for name, module in self.named_modules():
            module.register_forward_hook(lambda module, inputs, output, name=name: self.log.append(name))

    def sample_latents(self, count, rng=None):
        return torch.randn(count, 4, generator=rng, dtype=torch.float64)

    def sample_labels(self, count, rng):
        return torch.randint(0, 10, (count,), generator=rng)

    def forward(self, z, labels=None):
        labels = torch.zeros(len(z), dtype=torch.long) if labels is None else labels
        x = torch.cat([self.embedding(labels), torch.relu(self.scaling(z))], dim=1)
        return self.unflatten(self.pair(self.second(x))[0])


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return torch.tanh(x) * self.scale, x


@pytest.mark.parametrize("conditions", [{}, {"labels": "random"}])
def test_the_default_layer_is_the_first_that_follows_the_latents(conditions):
    """Not the embedding, which runs before, nor the parametrization, whose output is a weight."""
    assert search(Net(), conditions=conditions).notes["layer"] == "scaling"


def test_a_module_without_such_a_layer_gives_its_images():
    G = nn.Linear(4, 12).double()
    found = search(FunctionGenerator(G, 4))
    assert (found.notes["layer"], found.notes["features"]) == ("images", 12)


@pytest.mark.parametrize("layer", ["second", "sec*"])
def test_a_named_layer_is_read(layer):
    G, z = Net(), []
    weights = []
    G.second.register_forward_hook(lambda module, inputs, output: weights.append(output.clone()))
    original = G.sample_latents
    G.sample_latents = lambda count, rng=None: z.append(original(count, rng)) or z[-1]
    found = search(G, layer=layer)
    assert (found.notes["layer"], found.notes["features"]) == ("second", 12)
    G(z[0])
    y = weights[-1].detach().numpy()
    y = y - y.mean(axis=0)
    vectors = np.linalg.svd(y, full_matrices=False)[2][:4]
    expected = unit(torch.from_numpy(np.linalg.lstsq(y @ vectors.T, z[0].numpy(), rcond=None)[0]))
    assert largest_difference(found.rows, expected) < 1e-9


def test_passes_end_after_the_layer():
    """Only the two that look for the layer run to the end."""
    G = Net()
    search(G, samples=640, batch_size=64)
    assert G.log.count("scaling") >= 12
    assert G.log.count("unflatten") == 2


def test_hooks_are_taken_off():
    G = Net()
    before = {name: len(module._forward_hooks) for name, module in G.named_modules()}
    search(G)
    assert {name: len(module._forward_hooks) for name, module in G.named_modules()} == before


def test_a_progan_is_read_at_its_dense_layer():
    torch.manual_seed(0)
    G = ProGANGenerator(ProGANConfig(5, (8, 8), normalize_latent=False))
    found = discover(G, method=GANSpaceSearch(samples=4000))
    assert found.provenance["layer"] == "blocks.0.dense"
    cosines = found.matrix @ torch.linalg.svd(G.first_linear.weight.detach()).Vh.T
    assert float(cosines.abs().max(dim=1).values.min()) > 0.9  # 4,000 latents are white up to 1.6%


class Partial(nn.Module):
    """The first layer reads two of four latents."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 6).double(), nn.Linear(8, 12).double()

    def forward(self, z):
        return self.second(torch.cat([self.first(z[:, :2]), z[:, 2:]], dim=1)).reshape(-1, 3, 2, 2)


def test_fewer_directions_where_the_layer_reads_fewer_latents():
    found = discover(Partial(), latent_dim=4, method=GANSpaceSearch(samples=2000))
    assert found.matrix.shape == (2, 4)
    assert float(found.matrix[:, 2:].abs().max()) < 0.1  # what 2,000 samples correlate by chance


def test_the_default_layer_is_one_that_reads_the_subspace():
    assert search(FunctionGenerator(Partial(), 4), subspace=[2, 3]).notes["layer"] == "second"


def test_equal_seeds_find_equal_directions():
    assert torch.equal(search(Net(), seed=3).rows, search(Net(), seed=3).rows)
    assert not torch.equal(search(Net(), seed=3).rows, search(Net(), seed=4).rows)


@pytest.mark.parametrize("last", [128, 320])
def test_an_interrupted_search_goes_on(tmp_path, monkeypatch, last):
    monkeypatch.setattr("hessian_penalty.directions.search_state.SECONDS_BETWEEN_SAVES", 0.0)
    settings, G = GANSpaceSearch(samples=320, batch_size=32), Net()
    whole = settings.search(space_of(G), rng=seeded())
    path, shown = tmp_path / "search.safetensors", []

    def interrupt(done, total):
        if done == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        settings.search(space_of(G), rng=seeded(), state=SearchState(path, {}), progress=interrupt)
    resumed = settings.search(
        space_of(G), rng=seeded(), state=SearchState(path, {}), progress=lambda *done: shown.append(done)
    )
    assert torch.equal(resumed.rows, whole.rows)
    assert shown == [(done, 320) for done in range(last + 32, 321, 32)]


class LargestDouble(TorchDispatchMode):
    """Notes the elements of the largest float64 tensor that an operation gives."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor) and output.dtype == torch.float64:
            self.elements = max(self.elements, output.numel())
        return output


def test_latents_are_never_copied_to_float64_as_a_whole():
    with LargestDouble() as largest:
        search(FunctionGenerator(nn.Linear(4, 12), 4), samples=20_000, batch_size=1000)
    assert 0 < largest.elements <= 4 * 4096


def test_noise_does_not_pass_for_a_change_with_the_latents_nor_hide_one():
    with pytest.raises(UserError, match="The generator's images did not change with the latents"):
        search(FunctionGenerator(lambda z: 0 * z + torch.randn(z.shape), 4))
    noisy = FunctionGenerator(lambda z: z @ WEIGHT.float().T + 1e-3 * torch.randn(len(z), 12), 4)
    assert search(noisy).rows.shape == (4, 4)


class Noise(nn.Module):
    def forward(self, z):
        return torch.randn_like(z)


class NoisyNet(Net):
    """Its layer `noise` draws at each latent what the latent has no part in."""

    def __init__(self):
        super().__init__()
        self.noise = Noise()

    def forward(self, z, labels=None):
        return super().forward(z + self.noise(z), labels)


def test_a_layer_of_noise_does_not_change_with_the_latents():
    with pytest.raises(UserError, match="layer 'noise' did not change with the latents"):
        search(NoisyNet(), layer="noise")
    assert search(NoisyNet(), layer="second").notes["layer"] == "second"


def test_noise_is_the_same_in_every_search():
    G = NoisyNet()
    first = search(G, layer="second").rows
    torch.manual_seed(5)
    assert torch.equal(search(G, layer="second").rows, first)


class Broken(Net):
    def forward(self, z, labels=None):
        return super().forward(z / 0.0, labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GANSpaceSearch(samples=1), "samples must be a finite number at least 2, got 1"),
        (lambda: GANSpaceSearch(batch_size=0), "batch_size must be a finite number at least 1, got 0"),
        (
            lambda: search(FunctionGenerator(linear, 4), layer="second"),
            "`layer` names a module .* must be a torch.nn.Module, got function; leave `layer` out",
        ),
        (
            lambda: search(Net(), layer="magic"),
            "^`layer` pattern 'magic' matches no module of G; its modules are: unus",
        ),
        (lambda: search(Net(), layer="*s*"), r"`layer` must match one module, but '\*s\*' matches unused, .*second"),
        (lambda: search(Net(), layer="unused"), "`layer` matches unused, but none of them runs"),
        (lambda: search(Net(), layer="pair"), "`layer` matches 'pair', which returns tuple"),
        (
            lambda: search(Net(), layer="embedding"),
            "The generator's layer 'embedding' did not change with the latents that are searched; choose another",
        ),
        (
            lambda: search(FunctionGenerator(lambda z: 0 * z[:, :, None, None], 4)),
            "The generator's images did not change with the latents that are searched",
        ),
        (lambda: search(Broken()), "not finite"),
        (lambda: search(Broken(), layer="second"), "not finite"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()
