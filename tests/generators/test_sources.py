import logging
import os
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hessian_penalty.errors import UserError
from hessian_penalty.generators.biggan import BigGAN, BigGANConfig
from hessian_penalty.generators.function_generator import FunctionGenerator
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.generators.sources import SOURCES, open_generator

EXAMPLE = Path(__file__).parents[2] / "examples" / "bring_your_own_generator.py"


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.latent_dim = 4
        self.dense = nn.Linear(4, 12)
        self.dropout = nn.Dropout()

    def forward(self, z):
        return self.dropout(torch.tanh(self.dense(z))).view(-1, 3, 2, 2)


@pytest.fixture
def decoder():
    torch.manual_seed(0)
    return Decoder()


def frozen(module):
    return not module.training and not any(parameter.requires_grad for parameter in module.parameters())


def latents(count=3):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0))


def test_a_run(small_run):
    G = open_generator(small_run.path)
    assert isinstance(G, Generator)
    assert G.latent_dim == 4
    assert frozen(G)
    assert open_generator(str(small_run.path), latent_dim=4, device=torch.device("cpu")).latent_dim == 4
    with pytest.raises(UserError, match="`latent_dim` is 5, but the generator's own is 4; leave it out"):
        open_generator(small_run.path, latent_dim=5)


class TestFunctions:
    @pytest.fixture(autouse=True)
    def in_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        yield
        own = [key for key, value in sys.modules.items() if str(tmp_path) in (getattr(value, "__file__", "") or "")]
        for name in own:
            del sys.modules[name]

    def write(self, text, name="mine.py"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import torch\nfrom torch import nn\n" + text)

    def test_a_module_in_the_current_directory(self):
        self.write("def make():\n    return nn.Linear(4, 3)\n", "pack/inner.py")
        before = list(sys.path)
        G = open_generator("pack.inner:make", latent_dim=4)
        assert isinstance(G, FunctionGenerator)
        assert frozen(G.function)
        assert G(G.sample_latents(2)).shape == (2, 3)
        assert sys.path == before

    def test_a_file_elsewhere_with_neighbours(self):
        self.write("SIZE = 5\n", "far/neighbour.py")
        self.write("def make():\n    from neighbour import SIZE\n    return nn.Linear(SIZE, 3)\n", "far/torch.py")
        before = list(sys.path)
        assert open_generator("far/torch.py:make", latent_dim=5).function.in_features == 5
        assert sys.modules["torch"] is torch
        assert sys.path == before

    def test_a_generator_is_returned_as_it_is(self):
        self.write(
            "class G(nn.Linear):\n    latent_dim = 4\n    def sample_latents(self, count, rng=None):\n"
            "        return torch.rand(count, 4, generator=rng)\ndef make():\n    return G(4, 3)\n"
        )
        G = open_generator("mine.py:make")
        assert type(G).__name__ == "G"
        assert float(G.sample_latents(100).min()) >= 0
        assert frozen(G)
        assert type(open_generator("mine.py:make", latent_dim=4)).__name__ == "G"

    def test_latent_dim_of_a_module_without_sampler(self):
        self.write("def make():\n    G = nn.Linear(4, 3)\n    G.latent_dim = 4\n    return G\n")
        assert open_generator("mine:make").latent_dim == 4
        with pytest.raises(UserError, match="`latent_dim` is 5, but mine:make says 4; leave it out"):
            open_generator("mine:make", latent_dim=5)

    def test_what_a_wrapper_holds_is_frozen(self):
        self.write(
            "from hessian_penalty.generators.mapped_generator import MappedGenerator\n"
            "def make():\n"
            "    return MappedGenerator(nn.Linear(2, 4), nn.Sequential(nn.Linear(4, 3), nn.Dropout()), 4, z_dim=2)\n"
        )
        G = open_generator("mine:make")
        assert frozen(G.function)
        assert frozen(G.mapping)

    def test_an_exported_program_that_a_function_returns(self):
        self.write(
            "def make():\n    batch = torch.export.Dim('batch')\n    return torch.export.export(nn.Linear(4, 3), "
            "(torch.zeros(2, 4),), dynamic_shapes=({0: batch},)).module()\n"
        )
        assert open_generator("mine:make", latent_dim=4)(latents(5)).shape == (5, 3)

    @pytest.mark.parametrize(
        ("text", "source", "message", "cause"),
        [
            ("", "mine:make", "mine:make: make does not exist in .*mine.py; callables defined there: none", None),
            ("", "sys:foo", "sys:foo: foo does not exist in sys; callables defined there: ", None),
            ("", "sys:path", "sys:path: path is not a function in sys; callables defined there: ", None),
            ("def f(): 0\nclass C: 0\nmake = 3\n", "mine:make", "make is not a function in .*: f, C", None),
            ("", "nothing:make", "cannot be imported: ModuleNotFoundError: No module named 'nothing'", ImportError),
            ("import nothing", "mine:make", r"No module named 'nothing' \(.*mine.py, line 3\)", ImportError),
            ("def (:\n", "mine.py:make", r"SyntaxError: invalid syntax \(mine.py, line 3\)", SyntaxError),
            ("raise SystemExit(3)\n", "mine.py:make", r"cannot be imported: SystemExit: 3", SystemExit),
            ("def make():\n    return 1 / 0\n", "mine.py:make", r"failed: ZeroDivisionError.*line 4", Exception),
            ("def make():\n    assert 0\n", "mine.py:make", r"make\(\) failed: AssertionError \(.*line 4", Exception),
            ("def make(a):\n    0\n", "mine.py:make", "missing 1 required.*called without arguments", TypeError),
            ("def make():\n    return 3\n", "mine.py:make", "int has no latent_dim and sample_latents", None),
            ("def make():\n    return torch.sin\n", "mine.py:make", "`latent_dim` is needed for a builtin", None),
            ("", "gone.py:make", "the file gone.py does not exist", None),
            ("", "mine.py:", "'mine.py:' must be package.module:function or path/to/file.py:function", None),
            ("", "mi-ne:make", "must be package.module:function", None),
            ("", "http://x/y:f", "must be package.module:function", None),
        ],
    )  # fmt: skip
    def test_errors_say_what_and_where(self, text, source, message, cause):
        self.write(text)
        before = list(sys.path)
        with pytest.raises(UserError, match=message) as caught:
            open_generator(source)
        assert caught.value.__cause__ is None if cause is None else isinstance(caught.value.__cause__, cause)
        assert sys.path == before


class TestTorchScript:
    @pytest.mark.parametrize("suffix", [".pt", ".ts", ".torchscript"])
    def test_a_scripted_module_says_its_latent_dim(self, decoder, tmp_path, suffix):
        path = tmp_path / f"G{suffix}"
        torch.jit.script(decoder).save(path)
        G = open_generator(path)
        assert G.latent_dim == 4
        assert frozen(G.function)
        assert torch.allclose(G(latents()), decoder.eval()(latents()))
        assert G.sample_latents(7).shape == (7, 4)
        with pytest.raises(UserError, match=r"`latent_dim` is 5, but .* says 4; leave it out"):
            open_generator(path, latent_dim=5)

    @pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # of making the file
    @pytest.mark.parametrize("freeze", [False, True])
    def test_a_traced_module_needs_it(self, decoder, tmp_path, freeze):
        traced = torch.jit.trace(decoder.eval(), latents())
        (torch.jit.freeze(traced) if freeze else traced).save(tmp_path / "G.pt")
        with pytest.raises(UserError, match=r"`latent_dim` is needed: .*G.pt does not store it"):
            open_generator(tmp_path / "G.pt")
        assert torch.allclose(open_generator(tmp_path / "G.pt", latent_dim=4)(latents(5)), decoder(latents(5)))

    def test_gradients_reach_the_latents(self, decoder, tmp_path):
        torch.jit.script(decoder).save(tmp_path / "G.pt")
        z = latents().requires_grad_()
        open_generator(tmp_path / "G.pt")(z).sum().backward()
        assert z.grad.abs().sum() > 0


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("the file's code ran",))


@pytest.mark.parametrize("suffix", [".pt", ".ts", ".pth", ".pkl", ".ckpt"])
@pytest.mark.parametrize("content", ["weights", "pickled module", "harmful", "garbage"])
def test_pickles_and_bare_weights_are_refused_with_the_remedy(decoder, tmp_path, suffix, content):
    path = tmp_path / f"G{suffix}"
    values = {"weights": decoder.state_dict(), "pickled module": decoder, "harmful": Harmful()}
    if content == "garbage":
        path.write_bytes(b"garbage")
    else:
        torch.save(values[content], path)
    with pytest.raises(UserError, match=r"never unpickled here.*torch.jit.save.*file.py:function.*biggan128:PATH"):
        open_generator(path, latent_dim=4)


class TestExported:
    def save(self, folder, module, dynamic=None, inputs=None):
        path = folder / "G.pt2"
        program = torch.export.export(module, inputs or (torch.zeros(6, 4),), dynamic_shapes=dynamic)
        torch.export.save(program, path)
        return path

    @pytest.mark.parametrize("batch", [torch.export.Dim("batch"), torch.export.Dim.DYNAMIC])
    def test_a_dynamic_batch(self, decoder, tmp_path, batch):
        path = self.save(tmp_path, decoder.eval(), ({0: batch},))
        G = open_generator(f"trusted:{path}")
        assert G.latent_dim == 4
        assert not any(parameter.requires_grad for parameter in G.function.parameters())
        for count in (1, 3, 9):
            assert torch.allclose(G(latents(count)), decoder(latents(count)), atol=1e-6)
        with pytest.raises(UserError, match=r"`latent_dim` is 5, but .* says 4"):
            open_generator(f"trusted:{path}", latent_dim=5)

    def test_not_opened_without_the_word(self, decoder, tmp_path, monkeypatch):
        path = self.save(tmp_path, decoder)
        monkeypatch.setattr(torch.export, "load", lambda path: pytest.fail("opened"))
        with pytest.raises(UserError, match=f"runs the Python that it holds.*give trusted:{path}"):
            open_generator(path)

    @pytest.mark.parametrize(
        ("dynamic", "takes"),
        [
            (None, "only takes batches of 6; batches of any size"),
            (({0: torch.export.Dim("b", max=8)},), "only takes batches of [02] to 8"),
            (({0: torch.export.Dim("b", min=4)},), "only takes batches of 4 to int_oo"),
        ],
    )
    def test_another_batch_says_how_to_export(self, decoder, tmp_path, dynamic, takes):
        path = self.save(tmp_path, decoder, dynamic)
        with pytest.raises(UserError, match=takes) as caught:
            open_generator(f"trusted:{path}")
        remedy = str(caught.value).partition("Export it again with ")[2].removesuffix(".")
        torch.export.save(eval(remedy, {"torch": torch, "G": decoder.eval()}), path)
        assert open_generator(f"trusted:{path}")(latents(9)).shape == (9, 3, 2, 2)

    @pytest.mark.parametrize(
        ("inputs", "came"),
        [
            ((torch.zeros(2, 4), torch.zeros(2, 4)), r"takes 2, the first of shape \(2, 4\)"),
            ((torch.zeros(2, 1, 4),), r"takes 1, the first of shape \(2, 1, 4\)"),
        ],
    )
    def test_other_inputs_are_refused(self, tmp_path, inputs, came):
        class Add(nn.Module):
            def forward(self, z, y=None):
                return z if y is None else z + y

        path = self.save(tmp_path, Add(), inputs=inputs)
        with pytest.raises(UserError, match=f"must take one input, latents of shape.*{came}"):
            open_generator(f"trusted:{path}")

    @pytest.mark.parametrize("zipped", [False, True])
    def test_another_file(self, tmp_path, caplog, zipped):
        path = tmp_path / "G.pt2"
        torch.save({}, path) if zipped else path.write_bytes(b"garbage")
        with caplog.at_level(logging.WARNING), pytest.raises(UserError, match="not an exported program that PyTorch"):
            open_generator(f"trusted:{path}")
        assert not caplog.records
        assert not logging.getLogger("torch.export").disabled

    def test_the_word_is_for_such_files_alone(self, tmp_path):
        (tmp_path / "G.pth").touch()
        with pytest.raises(UserError, match=r"trusted: is for torch.export files \(.pt2\), got .*G.pth"):
            open_generator(f"trusted:{tmp_path / 'G.pth'}")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "'nothing' is none of them"),
        ("", "'' is none of them|no config.json"),
        ("file.py", "'file.py' needs a function, as in file.py:function"),
        ("gone.pt", "gone.pt does not exist"),
        ("gone.pt2", "gone.pt2 does not exist"),
        ("gone.pth", "gone.pth does not exist"),
        ("trusted:gone.pt2", "gone.pt2 does not exist"),
        ("empty", "The folder empty has no config.json"),
    ],
)
def test_what_is_no_source_lists_the_forms(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    with pytest.raises(UserError, match=message) as caught:
        open_generator(source)
    assert SOURCES in str(caught.value)
    for form in ("run folder", "package.module:function", "file.py:function", ".torchscript", "trusted:", "biggan128:"):
        assert form in SOURCES


def test_an_unknown_device():
    with pytest.raises(UserError, match=r"`device` 'abacus' cannot be used here .*; cpu always can"):
        open_generator("torch.nn:Identity", latent_dim=3, device="abacus")


def test_a_module_goes_to_the_device(tmp_path):
    (tmp_path / "on_meta.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(4, 3)\n")
    G = open_generator(f"{tmp_path / 'on_meta.py'}:make", latent_dim=4, device="meta")
    assert G.function.weight.is_meta
    assert G.sample_latents(2).is_meta


def test_latents_of_what_has_no_parameters_go_to_the_device():
    assert open_generator("torch.nn:Identity", latent_dim=3, device="meta").sample_latents(2).is_meta
    z = open_generator("torch.nn:Identity", latent_dim=3).sample_latents(2, torch.Generator().manual_seed(1))
    assert torch.equal(z, torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))


def test_the_example_of_the_documentation():
    G = open_generator(f"{EXAMPLE}:toy_decoder")
    assert isinstance(G, Generator)
    assert frozen(G)
    draw = torch.Generator().manual_seed(0)
    z = G.sample_latents(4, draw)
    images = G(z)
    assert images.shape == (4, 3, 16, 16)
    assert float(images.abs().max()) <= 1
    assert float(images.std(dim=0).mean()) > 0.01
    assert torch.equal(images, open_generator(f"{EXAMPLE}:toy_decoder")(z))


def test_biggan_weights(tmp_path):
    path = tmp_path / "G_ema.pth"
    torch.save(BigGAN(BigGANConfig(channels=4, classes=3, latent_dim=12, shared_dim=4)).state_dict(), path)
    G = open_generator(f"biggan128:{path}")
    assert isinstance(G, BigGAN)
    assert G.latent_dim == 12
    assert frozen(G)
    with pytest.raises(UserError, match="`latent_dim` is 5, but the generator's own is 12"):
        open_generator(f"biggan128:{path}", latent_dim=5)
    with pytest.raises(UserError, match="none.pth is not a file"):
        open_generator(f"biggan128:{tmp_path / 'none.pth'}")
