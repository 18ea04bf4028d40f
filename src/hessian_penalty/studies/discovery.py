"""Directions of any generator, with their pictures, in one folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hessian_penalty.directions.directions import Directions
from hessian_penalty.directions.discover import discover
from hessian_penalty.directions.method import Method, Progress
from hessian_penalty.errors import UserError
from hessian_penalty.generators.protocol import Generator
from hessian_penalty.reports.direction_page import SHEET_NAME, directions_page
from hessian_penalty.reports.direction_sheet import direction_sheet
from hessian_penalty.reports.direction_video import direction_videos

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

    A search that was interrupted left its state in the folder, and goes on from there.

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
        UserError: the folder holds directions already, and as `discover`.
    """
    out, conditions = Path(out), dict(conditions or {})
    if (out / RESULT).exists():
        raise UserError(f"{out / RESULT} exists already. Choose another --out, or delete it.")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out names a folder.")
    out.mkdir(parents=True, exist_ok=True)
    progress_of = progress_of or _Silent
    with progress_of("searching directions") as update:
        directions = discover(
            G, method=method, count=count, subspace=subspace, rng=torch.Generator().manual_seed(seed),
            checkpoint=out / STATE, progress=update, **conditions,
        )  # fmt: skip
    directions.provenance.update(seed=seed, source=source, conditions={k: str(v) for k, v in conditions.items()})
    directions.save(out / "directions.csv")
    if shown:
        indices = range(min(shown, len(directions)))

        def pictured() -> dict[str, Any]:
            return {"extent": extent, "rng": torch.Generator().manual_seed(seed), **conditions}

        direction_sheet(G, directions, out / SHEET_NAME, count=len(indices), **pictured())
        with progress_of("videos") as update:
            direction_videos(G, directions, out, indices=indices, progress=update, **pictured())
    directions_page(directions, out, f"Directions of {source or type(G).__name__}", command=command)
    directions.save(out / RESULT)  # the last: what has it is complete
    return directions


class _Silent:
    """No progress bar."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> Progress:
        return lambda done, total: None

    def __exit__(self, *exception: object) -> None:
        return None
