"""Open a generator by what a user writes on the command line."""

from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.function_generator import FunctionGenerator, as_generator
from hessian_penalty.generators.imported_function import call_named
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.generators.program_files import NOT_A_PROGRAM, read_exported, read_torchscript
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.penalty.reachable import reachable
from hessian_penalty.runs import RunFolder

BIGGAN_PREFIX = "biggan128:"
TRUSTED_PREFIX = "trusted:"
TORCHSCRIPT_SUFFIXES = (".pt", ".ts", ".torchscript")
PICKLED_SUFFIXES = (".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar", ".safetensors")
SOURCES = (
    "a run folder that `train` made; "
    "package.module:function or path/to/file.py:function, called without arguments to return the generator; "
    f"a TorchScript file ({', '.join(TORCHSCRIPT_SUFFIXES)}); "
    f"{TRUSTED_PREFIX}PATH.pt2, a torch.export file that you made or trust; "
    f"{BIGGAN_PREFIX}PATH, BigGAN-128 weights"
)


def open_generator(
    source: str | Path, *, latent_dim: int | None = None, device: str | torch.device = "cpu"
) -> Generator:
    """Open a generator, frozen (eval mode, no parameter gradients) and on a device.

    | source | what it is | latent_dim |
    |---|---|---|
    | `runs/mine` | a run of `train`: the averaged weights of its newest checkpoint | its own |
    | `package.module:function`, `file.py:function` | your code, called to return a generator or callable | its own, \
else needed |
    | `G.pt`, `G.ts`, `G.torchscript` | a TorchScript module | its attribute `latent_dim`, else needed |
    | `trusted:G.pt2` | a program of `torch.export`, with a dynamic batch dimension | its input's |
    | `biggan128:weights.pth` | BigGAN-128 | its own |

    A generator has `latent_dim`, `sample_latents(count, rng)` and a call; a callable from latents to images is given
    latents from N(0, I). Nothing that a file holds is unpickled, tensors with `weights_only=True` apart. A `.pt2` file
    runs Python when it is opened, and no setting of PyTorch prevents that, so it is only opened where the word
    `trusted:` says that you know where it comes from. A TorchScript file runs no Python, but is a program still: with
    some operators it can write files.

    Args:
        source: as above.
        latent_dim: number of latent components, where the source does not say it.
        device: where the generator goes.

    Raises:
        UserError: there is no such source or it cannot be read; `latent_dim` is missing or another than the source's
            own; there is no such device.

    >>> open_generator("torch.nn:Identity", latent_dim=3).latent_dim
    3
    """
    device = _require_device(device)
    text, path = str(source), Path(source)
    if text.startswith(BIGGAN_PREFIX):
        from hessian_penalty.generators.biggan import load_biggan

        return _finish(load_biggan(Path(text.removeprefix(BIGGAN_PREFIX))), latent_dim, device)
    if text.startswith(TRUSTED_PREFIX):
        path = _require_file(Path(text.removeprefix(TRUSTED_PREFIX)))
        if path.suffix != ".pt2":
            raise UserError(
                f"{TRUSTED_PREFIX} is for torch.export files (.pt2), got {path}. Expected a source: {SOURCES}."
            )
        program, taken = read_exported(path, device)
        return _finish(program, _agreed(latent_dim, taken, path), device)
    if path.is_dir():
        if not RunFolder(path).config_path.is_file():
            raise UserError(f"The folder {path} has no config.json, so it is no run. Expected a source: {SOURCES}.")
        return _finish(load_generator(RunFolder.open(path)), latent_dim, device)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        script, stored = read_torchscript(_require_file(path), device)
        return _finish(script, _agreed(latent_dim, stored, path), device)
    if path.suffix == ".pt2":
        raise UserError(
            f"{_require_file(path)}: opening a torch.export file runs the Python that it holds (pickles, expressions), "
            f"and PyTorch has no safe way to read one. If you made it or trust who did, give {TRUSTED_PREFIX}{path}; "
            "otherwise ask for TorchScript."
        )
    if path.suffix in PICKLED_SUFFIXES:
        raise UserError(f"{_require_file(path)} is not a generator that can be opened. {NOT_A_PROGRAM}")
    if ":" in text:
        returned = call_named(text)
        own = getattr(returned, "latent_dim", None)
        if not hasattr(returned, "sample_latents") and isinstance(own, int):
            latent_dim = _agreed(latent_dim, own, text)
        return _finish(returned, latent_dim, device)
    what = "needs a function, as in file.py:function" if path.suffix == ".py" else "is none of them"
    raise UserError(f"{text!r} {what}. Expected a source: {SOURCES}.")


def _require_device(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"`device` {str(device)!r} cannot be used here ({error}); cpu always can.") from None


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file. Expected a source: {SOURCES}.")
    return path


def _agreed(given: int | None, own: int | None, source: object) -> int:
    """Return the number of latents that the flag and the source agree on."""
    if given is None and own is None:
        raise UserError(
            f"`latent_dim` is needed: {source} does not store it. Give the number of components of one latent "
            "(--latent-dim on the command line), or script a module that has an attribute `latent_dim`."
        )
    if given is not None and own not in (None, given):
        raise UserError(f"`latent_dim` is {given}, but {source} says {own}; leave it out.")
    return given or own or 0


def _finish(G: Any, latent_dim: int | None, device: torch.device) -> Generator:
    """Freeze what G holds, move it, and give it what it lacks of a generator."""
    modules = reachable(G)[0]
    for module in modules:
        with suppress(NotImplementedError):  # exported programs have no modes
            module.eval()
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        module.to(device)
    parameters = chain.from_iterable(module.parameters(recurse=False) for module in modules)
    if hasattr(G, "sample_latents") or not callable(G) or latent_dim is None or any(True for _ in parameters):
        return as_generator(G, latent_dim)

    def sample(count: int, rng: torch.Generator | None) -> Tensor:
        drawn_on = rng.device if rng is not None else device
        return torch.randn(count, latent_dim, generator=rng, device=drawn_on).to(device)

    return FunctionGenerator(G, latent_dim, sample)  # no parameter says where latents go
