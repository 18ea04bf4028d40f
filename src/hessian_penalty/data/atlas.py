"""A small data set as one losslessly compressed picture, to travel inside a package: about 0.8 kB a 32-pixel image."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.runs import atomic_path, read_json, write_json

COLUMNS = 64  # WebP pictures end at 16,383 pixels a side


def pack_atlas(dataset: ImageDataset, folder: Path, *, count: int, resolution: int) -> None:
    """Write the first `count` images, shrunk to `resolution`, as `images.webp`, `atlas.json` and `factors.npz`.

    Raises:
        UserError: the data set has fewer images, or they cannot be shrunk to `resolution`.
    """
    if count > len(dataset):
        raise UserError(f"{dataset.path} has {len(dataset)} images; {count} cannot be packed.")
    images = dataset.batch(slice(0, count), resolution).add(1).mul(127.5).round().byte()
    rows = -(-count // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, resolution, resolution, images.shape[1]), np.uint8)
    tiles[:count] = images.permute(0, 2, 3, 1).numpy()
    sheet = tiles.reshape(rows, COLUMNS, resolution, resolution, -1).swapaxes(1, 2)  # (rows, H, columns, W, C)
    picture = Image.fromarray(sheet.reshape(rows * resolution, COLUMNS * resolution, -1).squeeze())
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "images.webp") as temporary:
        picture.save(temporary, lossless=True, quality=100, method=6)
    factors = dataset.factors()
    with atomic_path(folder / "factors.npz") as temporary:
        np.savez_compressed(temporary, **{f.name: f.values[:count].astype(np.float32) for f in factors})  # type: ignore[arg-type]
    kept = ("name", "seed", "samples_per_pixel", "description")
    write_json(
        folder / "atlas.json",
        {
            "count": count,
            "resolution": resolution,
            "source": {"size": dataset.resolution, **{k: v for k, v in dataset.metadata.items() if k in kept}},
            "factors": [{"name": f.name, "kind": f.kind, "categories": list(f.categories)} for f in factors],
        },
    )


def unpack_atlas(folder: Path, out: Path) -> ImageDataset:
    """Make an image data set of a packed one; an `out` that is complete already is opened as it is."""
    if (out / "dataset.json").exists():
        return ImageDataset(out)
    described = read_json(folder / "atlas.json")
    count, resolution = described["count"], described["resolution"]
    with Image.open(folder / "images.webp") as picture:
        sheet = np.asarray(picture.convert("RGB"))
    rows = sheet.shape[0] // resolution
    tiles = sheet.reshape(rows, resolution, COLUMNS, resolution, 3).swapaxes(1, 2)
    images_uint8 = tiles.reshape(-1, resolution, resolution, 3)[:count]
    with np.load(folder / "factors.npz", allow_pickle=False) as arrays:
        factors = [
            Factor(d["name"], d["kind"], arrays[d["name"]], tuple(d["categories"])) for d in described["factors"]
        ]
    with atomic_path(out) as temporary:
        os.makedirs(temporary)
        np.save(temporary / "images.npy", images_uint8)
        ImageDataset.finish(temporary, factors, count=count, size=resolution, source=described["source"])
    return ImageDataset(out)
