"""An image data set on disk: memory-mapped uint8 pictures, ground-truth factors where they exist, provenance."""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path, read_json, write_json

FORMAT_VERSION = 1
FactorKind = Literal["continuous", "circular", "categorical"]


@dataclass(frozen=True)
class Factor:
    """One ground-truth factor of variation.

    Args:
        name: what it is, "x" or "hue".
        kind: "continuous"; "circular" (values in [0, 1), 0 and 1 the same); or "categorical" (integers).
        values: one per image.
        categories: names of the integers of a categorical factor.
    """

    name: str
    kind: FactorKind
    values: NDArray[Any]
    categories: tuple[str, ...] = ()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ImageDataset:
    """A folder with `images.npy` (uint8, (N, H, W, C)), `dataset.json`, and `factors.npz` where ground truth exists.

    Images are memory-mapped: a data set larger than memory is fine. Lower power-of-two resolutions are box averages
    made on the fly.

    Raises:
        UserError: a file is missing, or does not match `dataset.json`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "dataset.json").is_file():
            raise UserError(
                f"{self.path} is not an image data set: expected {self.path / 'dataset.json'}. "
                "Make one with `hessian-penalty render` or `hessian-penalty import`."
            )
        metadata = read_json(self.path / "dataset.json")
        if not isinstance(metadata, dict) or metadata.get("format") != FORMAT_VERSION:
            found = metadata.get("format") if isinstance(metadata, dict) else metadata
            raise UserError(
                f'{self.path / "dataset.json"} must say "format": {FORMAT_VERSION}, got {found!r}; '
                "make the data set anew."
            )
        self.metadata: dict[str, Any] = metadata
        images_path = self.path / "images.npy"
        try:
            self.images_uint8: NDArray[np.uint8] = np.lib.format.open_memmap(images_path, mode="r")
        except (OSError, ValueError) as error:
            raise UserError(f"{images_path} cannot be read ({error}); make the data set anew.") from None
        shape, expected = list(self.images_uint8.shape), self.metadata.get("shape")
        if self.images_uint8.dtype != np.uint8 or shape != expected or len(shape) != 4:
            raise UserError(
                f"{images_path} holds {self.images_uint8.dtype} {shape}, expected uint8 (N, H, W, C), {expected} as "
                "dataset.json says; make the data set anew."
            )

    @classmethod
    def finish(cls, path: Path, factors: list[Factor], **provenance: Any) -> None:
        """Write `factors.npz` and `dataset.json` beside a complete `images.npy` in `path`."""
        if factors:
            arrays = {f"{index}:{factor.name}": factor.values for index, factor in enumerate(factors)}
            with atomic_path(path / "factors.npz") as temporary:
                np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
        images_uint8 = np.lib.format.open_memmap(path / "images.npy", mode="r")
        write_json(
            path / "dataset.json",
            {
                "format": FORMAT_VERSION,
                **provenance,
                "shape": list(images_uint8.shape),
                "sha256": sha256(path / "images.npy"),
                "factors": [{"name": f.name, "kind": f.kind, "categories": list(f.categories)} for f in factors],
            },
        )

    def __len__(self) -> int:
        return int(self.images_uint8.shape[0])

    @property
    def sha256(self) -> str | None:
        """Content hash of the images, as dataset.json states it."""
        return self.metadata.get("sha256")

    @property
    def resolution(self) -> int:
        """Height and width in pixels."""
        return int(self.images_uint8.shape[1])

    @property
    def image_channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return int(self.images_uint8.shape[3])

    def batch(self, indices: Any, resolution: int | None = None) -> Float[Tensor, "batch channels height width"]:
        """Images in [-1, 1], channels first, box-averaged down to `resolution` where it is given.

        Raises:
            UserError: `resolution` is not this data set's divided by a power of two.
        """
        images_uint8 = np.array(self.images_uint8[indices])  # a copy: the map is read-only
        images = torch.from_numpy(images_uint8).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        factor = self._shrink_factor(self.resolution if resolution is None else resolution)
        return torch.nn.functional.avg_pool2d(images, factor) if factor > 1 else images

    def _shrink_factor(self, resolution: int) -> int:
        factor = self.resolution // resolution if resolution > 0 else 0
        if factor < 1 or factor * resolution != self.resolution or factor & (factor - 1):
            raise UserError(
                f"{self.path} has {self.resolution}-pixel images, which cannot be shrunk to {resolution} by a power "
                f"of two. Make the data set with `--size {resolution}` or a power-of-two multiple of it."
            )
        return factor

    def factors(self) -> list[Factor]:
        """Ground-truth factors in their order; empty where the data has none.

        Raises:
            UserError: factors.npz is missing, damaged or does not match dataset.json.
        """
        described = self.metadata.get("factors", [])
        if not described:
            return []
        path = self.path / "factors.npz"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = [
                    Factor(d["name"], d["kind"], arrays[f"{i}:{d['name']}"], tuple(d["categories"]))
                    for i, d in enumerate(described)
                ]
        except (OSError, KeyError, TypeError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path} cannot be read ({error}); make the data set anew.") from None
        if any(len(factor.values) != len(self) for factor in found):
            raise UserError(f"{path} does not have one value per image ({len(self)}); make the data set anew.")
        return found
