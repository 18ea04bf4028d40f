"""BigGAN for 128 pixels: the generator's names, and reading a checkpoint of it, whoever wrote it.

Nothing that a checkpoint holds is run. The network is in `biggan_network`.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.generators.biggan_network import CHUNKS, BigGAN, BigGANConfig, random_biggan

__all__ = ["BigGAN", "BigGANConfig", "load_biggan", "random_biggan"]

SHOWN = 3  # names of each kind in a message


def load_biggan(path: Path | str) -> BigGAN:
    """Return the generator of a checkpoint, frozen, in float32 on the CPU; its size is read off its tensors.

    Args:
        path: `.pth` or `.pt`, a dictionary of tensors, or one with such a dictionary under "state_dict"; or
            `.safetensors`, where tensors may be called "state.<name>" to tell them from others.

    Raises:
        UserError: the file is missing, damaged, or holds something else than tensors; tensors are missing, unexpected,
            of another shape or not finite.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     G = BigGAN(BigGANConfig(channels=4, classes=10))
    ...     torch.save(G.state_dict(), f"{folder}/G_ema.pth")
    ...     load_biggan(f"{folder}/G_ema.pth").config
    BigGANConfig(channels=4, classes=10, latent_dim=120, shared_dim=128)
    """
    path = Path(path)
    tensors = _read(path)
    try:
        config = _config(tensors)
    except UserError as error:
        raise UserError(f"{path} holds no BigGAN generator: {error}") from None
    with torch.device("meta"):  # neither memory nor time for weights that are replaced
        G = BigGAN(config)
    _require_fit(path, tensors, G.state_dict())
    G.load_state_dict(tensors, assign=True)
    broken = [name for name, value in G.state_dict().items() if not bool(value.isfinite().all())]
    if broken:
        raise UserError(
            f"{path} is damaged: of its tensors {_listed('are not finite, or weights of zeros only', broken)}; get it "
            "again."
        )
    return G


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by name, in float32."""
    if not path.is_file():
        raise UserError(f"{path} is not a file; give the path of a BigGAN checkpoint (.pth, .pt or .safetensors).")
    if path.suffix == ".safetensors":
        found = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        found = _read_pickled(path)
    else:
        raise UserError(f"{path} must end in .pth, .pt or .safetensors, got {path.suffix or 'no suffix'!r}.")
    return {name: value.float() for name, value in found.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error}); get it again.") from None
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    return state or tensors


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is damaged, or holds other objects than tensors, which are not read because reading them can run "
            "code. Get it again, or save the generator's `state_dict()` alone."
        ) from None
    except Exception as error:  # reading a damaged archive may raise anything
        raise UserError(f"{path} cannot be read ({error}); get it again.") from None
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise UserError(
            f"{path} must hold a dictionary of named tensors, at the top or under 'state_dict', got "
            f"{_described(content)}; save the generator's `state_dict()`."
        )
    return content


def _described(content: Any) -> str:
    if not isinstance(content, dict):
        return f"a {type(content).__name__}"
    others = [
        str(name) for name, value in content.items() if not isinstance(name, str) or not isinstance(value, Tensor)
    ]
    return f"a dictionary with {_listed('other entries', others)}"


def _config(tensors: dict[str, Tensor]) -> BigGANConfig:
    """Size by the shapes of some tensors; the published one where they are missing or have no such shape."""
    sizes = {}
    for name in ("output_layer.0.gain", "output_layer.0.bias"):
        if name in tensors and tensors[name].ndim == 1:
            sizes["channels"] = len(tensors[name])
            break
    if "shared.weight" in tensors and tensors["shared.weight"].ndim == 2:
        sizes["classes"], sizes["shared_dim"] = tensors["shared.weight"].shape
    if "linear.weight" in tensors and tensors["linear.weight"].ndim == 2:
        sizes["latent_dim"] = CHUNKS * tensors["linear.weight"].shape[1]
    return BigGANConfig(**sizes)


def _require_fit(path: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in found and found[name].shape != value.shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted],
        "of another shape": shapes,
    }
    if any(problems.values()):
        raise UserError(
            f"{path} does not fit a BigGAN generator for 128 pixels: "
            f"{'; '.join(_listed(kind, names) for kind, names in problems.items() if names)}. "
            "Give the generator's weights, not the critic's, of the model with a hierarchical latent and a shared "
            "embedding."
        )


def _listed(kind: str, names: list[str]) -> str:
    """Count and first few.

    >>> _listed("missing", ["a", "b", "c", "d"])
    '4 missing (a, b, c, …)'
    """
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN] + ['…'] * (len(names) > SHOWN))})"
