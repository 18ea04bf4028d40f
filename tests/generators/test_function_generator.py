import pytest
import torch

from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator, as_generator
from hessian_penalty.generators.protocol import Generator


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Whole:
    """A generator as it is."""

    latent_dim = 3

    def sample_latents(self, count, rng=None):
        return torch.rand(count, 3, generator=rng)

    def __call__(self, z):
        return z[:, :, None, None]


class NotCallable:
    latent_dim = 3

    def sample_latents(self, count, rng=None):
        return torch.rand(count, 3, generator=rng)


def test_latents_are_standard_normal_draws_of_the_rng():
    G = FunctionGenerator(torch.sin, 4)
    assert isinstance(G, Generator)
    assert G.latent_dim == 4
    assert torch.equal(G.sample_latents(5, seeded(1)), torch.randn(5, 4, generator=seeded(1)))
    torch.manual_seed(2)
    drawn = G.sample_latents(5)
    torch.manual_seed(2)
    assert torch.equal(drawn, torch.randn(5, 4))


class Frozen(torch.nn.Module):
    """Its first parameter holds integers."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.layer = torch.nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, z):
        return self.layer(z)


DOUBLE = torch.nn.Linear(4, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (torch.nn.Linear(4, 2), torch.float32),
        (DOUBLE, torch.float64),
        (torch.nn.Sequential(torch.nn.Flatten(), DOUBLE, torch.nn.Linear(2, 2)), torch.float64),
        (Frozen(), torch.float64),
        (lambda z: DOUBLE(z).tanh(), torch.float64),
        (DOUBLE.forward, torch.float64),
        (torch.nn.BatchNorm1d(4, affine=False).double(), torch.float32),  # buffers are no parameters
        (torch.sin, torch.float32),
    ],
)
def test_precision_is_that_of_the_first_parameter(function, dtype):
    """The same draws in any precision."""
    z = FunctionGenerator(function, 4).sample_latents(3, seeded())
    assert z.dtype == dtype
    assert torch.equal(z, torch.randn(3, 4, generator=seeded()).to(dtype))


def test_latents_go_to_the_device_of_the_first_parameter():
    G = FunctionGenerator(torch.nn.Linear(4, 2, device="meta"), 4)
    z = G.sample_latents(3, seeded())  # drawn on the CPU
    assert z.device.type == "meta" and z.shape == (3, 4)


def test_a_sampler_draws_and_tells_the_number_of_components():
    given = []

    def sample(count, rng):
        given.append((count, rng))
        return torch.full((count, 6), 0.5, dtype=torch.float64)

    rng = seeded()
    for G in (FunctionGenerator(DOUBLE, sample=sample), FunctionGenerator(torch.sin, 6, sample)):
        assert G.latent_dim == 6
        assert torch.equal(G.sample_latents(2, rng), torch.full((2, 6), 0.5, dtype=torch.float64))
        assert given[-1][0] == 2 and given[-1][1] is rng


def test_a_call_hands_the_conditions_on():
    G = FunctionGenerator(lambda z, gain, offset=0.0: gain * z + offset, 2)
    z = torch.randn(3, 2)
    assert torch.equal(G(z, gain=3.0), 3.0 * z)
    assert torch.equal(G(z, gain=3.0, offset=1.0), 3.0 * z + 1.0)


def test_a_generator_is_left_as_it_is():
    G = Whole()
    assert as_generator(G) is G
    assert as_generator(G, 3) is G


def test_a_callable_becomes_a_generator():
    layer = torch.nn.Linear(4, 2)
    G = as_generator(layer, 4)
    assert isinstance(G, FunctionGenerator) and G.function is layer and G.latent_dim == 4
    assert torch.equal(G(torch.ones(1, 4)), layer(torch.ones(1, 4)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FunctionGenerator(lambda z: z), "`latent_dim` is needed for a function that does not carry it"),
        (lambda: FunctionGenerator(torch.sin, 0), "`latent_dim` must be at least 1, got 0."),
        (
            lambda: FunctionGenerator(torch.sin, 3, lambda count, rng: torch.zeros(count, 4)),
            "`latent_dim` is 3, but `sample` draws latents of 4 components.",
        ),
        (
            lambda: as_generator(torch.nn.Linear(4, 2)),
            "`latent_dim` is needed for a Linear that does not carry it: the",
        ),
        (lambda: as_generator(torch.sin, -2), "`latent_dim` must be at least 1, got -2."),
        (lambda: as_generator(Whole(), 4), "`latent_dim` is 4, but the generator's own is 3; leave it out."),
        (lambda: as_generator(7, 4), "int has no latent_dim and sample_latents. Wrap it in a small class"),
        (lambda: as_generator(NotCallable()), "NotCallable has no __call__. Wrap it in a small class"),
    ],
)
def test_errors_say_what_to_change(call, message):
    with pytest.raises(UserError, match=message):
        call()


class Half(torch.nn.Linear):
    """It knows how many latents it takes and how labels are drawn, but not how latents are."""

    latent_dim = 4
    subspaces = {"coarse": range(2)}

    def sample_labels(self, count, rng):
        return torch.randint(0, 9, (count,), generator=rng)


def test_what_else_the_function_says_is_passed_on():
    G = FunctionGenerator(Half(4, 2), 4)
    assert G.subspaces == {"coarse": range(2)}
    assert torch.equal(G.sample_labels(5, seeded()), torch.randint(0, 9, (5,), generator=seeded()))
    for name in ("sample_colours", "in_features"):
        with pytest.raises(AttributeError, match=name):
            getattr(G, name)
    assert not hasattr(FunctionGenerator(torch.sin, 2), "subspaces")


def test_a_callables_own_number_of_latents_is_taken():
    assert as_generator(Half(4, 2)).latent_dim == 4
    assert as_generator(Half(4, 2), 4).latent_dim == 4
    with pytest.raises(UserError, match="`latent_dim` is 5, but the generator's own is 4; leave it out."):
        as_generator(Half(4, 2), 5)
