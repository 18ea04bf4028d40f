"""Directions of any generator, with their pictures, in one folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import METHODS, describe, discover
from hessian_penalty.directions.method import Method, Progress, Space, subspace_rows
from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.direction_page import PAGE_NAME, SHEET_NAME, directions_page
from hessian_penalty.reports.direction_sheet import direction_sheet
from hessian_penalty.reports.direction_video import direction_videos
from hessian_penalty.runs import require_new

RESULT, STATE = "directions.safetensors", "search.safetensors"


def discover_into(
    out: str | Path,
    G: Generator,
    *,
    method: str | Method = "hessian",
    count: int | None = None,
    subspace: Any = None,
    seed: int = 0,
    shown: int = 12,
    extent: float = 3.0,
    source: str = "",
    conditions: Mapping[str, Any] | None = None,
    command: str | None = None,
    progress_of: Callable[[str], Any] | None = None,
) -> Directions:
    """Search, and write directions, a sheet, videos and a page into a folder.

    A search that was interrupted left its state in the folder, and goes on from there; so do its pictures.

    Args:
        out: the folder, for `directions.safetensors`, `.csv`, `.png`, videos and `report.html`.
        G: the generator.
        method, count, subspace: as of `discover`.
        seed: of the search and of the pictures.
        shown: how many directions get pictures; 0 is none.
        extent: how far pictures go along a direction.
        source: what the generator was opened from, for the provenance.
        conditions: further arguments of G.
        command: the command line, for the page.
        progress_of: from a title to a context that gives a progress function.

    Raises:
        UserError: the folder holds directions already, images cannot be shown, and as `discover`.
    """
    out, conditions = Path(out), dict(conditions or {})
    chosen = METHODS[method]() if isinstance(method, str) else method
    asked = {
        **chosen.record(),
        "seed": seed,
        "source": source,
        "count": count,
        "subspace": describe(subspace),
        "conditions": {name: str(value) for name, value in conditions.items()},
    }
    require_folder(out, asked)
    if shown:
        require_pictures(G, conditions)
    progress_of = progress_of or _Silent
    if (out / RESULT).exists():
        directions = Directions.load(out / RESULT)
    else:
        with progress_of("searching directions") as update:
            directions = discover(
                G, method=chosen, count=count, subspace=subspace, rng=torch.Generator().manual_seed(seed),
                checkpoint=out / STATE, progress=update, **conditions,
            )  # fmt: skip
        directions.provenance.update(asked)
        out.mkdir(parents=True, exist_ok=True)
        directions.save(out / "directions.csv")
        directions.save(out / RESULT)
    sheet, videos = None, []
    if shown:
        indices = range(min(shown, len(directions)))

        def pictured() -> dict[str, Any]:
            return {"extent": extent, "rng": torch.Generator().manual_seed(seed), **conditions}

        sheet = out / SHEET_NAME
        direction_sheet(G, directions, sheet, count=len(indices), **pictured())
        with progress_of("videos") as update:
            videos = direction_videos(G, directions, out, indices=indices, progress=update, **pictured())
    title = f"Directions of {source or type(G).__name__}"
    directions_page(directions, out, title, command=command, sheet=sheet, videos=videos)
    return directions


def require_folder(out: Path, asked: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else than the beginning of the search that is asked for.

    Raises:
        UserError: it is a file, or its directions are complete, or from another search.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names a folder.")
    if not (out / RESULT).exists():
        return
    if (out / PAGE_NAME).exists():
        require_new(out / RESULT)
    found = Directions.load(out / RESULT).provenance
    different = [name for name, value in asked.items() if found.get(name) != value]
    if different:
        raise UserError(
            f"{out / RESULT} is of another search ({', '.join(different)} differ). Repeat that search to get its "
            "pictures, or choose another --out."
        )


def require_pictures(G: Generator, conditions: Mapping[str, Any]) -> None:
    """Refuse a generator whose images cannot be shown, before a search that would take long.

    Raises:
        UserError: an image is not (channels, height, width) with 1 or 3 channels.
    """
    space = Space(G, subspace_rows(G, None), conditions)
    z, drawn = space.sample(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        (image,) = space.images(z[None], drawn)
    if image.ndim != 4 or image.shape[1] not in (1, 3):
        raise UserError(
            f"The generator's images have the shape {tuple(image.shape[1:])}, which cannot be shown: expected 1 or 3 "
            "channels, height and width. Search without pictures: --videos 0."
        )


class _Silent:
    """No progress bar."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> Progress:
        return lambda done, total: None

    def __exit__(self, *exception: object) -> None:
        return None
