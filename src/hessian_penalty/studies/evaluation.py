"""Measure runs, once: results are kept in the run folder and found again while nothing they depend on has changed."""

import contextlib
import dataclasses
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hessian_penalty.data.image_dataset import ImageDataset, sha256
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config, load_generator
from hessian_penalty.metrics.instruments import Instruments
from hessian_penalty.metrics.measures import PARTS, Measures, Part
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.runs import RunFolder, from_record, read_record, write_json

MEASURES_VERSION = 2  # raised when a measure changes, so that kept results are not taken for new ones


class Evaluator:
    """Measures runs against one data set by one protocol.

    Args:
        protocol: numbers of samples.
        dataset: the real images; None leaves out what needs them.
        resolution: of the generators, to which the real images are shrunk; None takes the data set's.
        why_no_data: shown in place of the distance where `dataset` is None.
    """

    def __init__(
        self,
        protocol: MeasureProtocol,
        dataset: ImageDataset | None,
        resolution: int | None = None,
        *,
        why_no_data: str = "no data set given",
    ) -> None:
        self.protocol, self.dataset, self.why_no_data = protocol, dataset, why_no_data
        self.tools = Instruments(protocol, dataset, resolution)

    def __call__(self, run: RunFolder, tell: Callable[[str], None] | None = None) -> Measures:
        """The run's measures: from its measures.json where they are still valid, else taken and kept there one by one.

        Args:
            tell: called with the name of what is measured next.
        """
        path = run.path / "measures.json"
        keys = {name: self._key(part, run) for name, part in PARTS.items()}
        kept, values = _kept(path, keys)
        generator = None
        for name, part in PARTS.items():
            if name in kept:
                continue
            if tell:
                tell(name)
            generator = generator or load_generator(run)
            taken = part.take(generator, self.tools)
            values |= {field: _plain(taken.get(field)) for field in part.gives}
            kept[name] = keys[name]
            write_json(path, {"of": kept, "measures": {"protocol": self.protocol.record(), **values}})
        return from_record(Measures, {"protocol": self.protocol.record(), **values}, str(path))

    def _key(self, part: Part, run: RunFolder) -> dict[str, Any]:
        settings = {name: getattr(self.protocol, name) for name in (*part.settings, "seed")}
        return {
            "version": MEASURES_VERSION,
            "weights_sha256": sha256(run.latest_checkpoint() / "ema.safetensors"),
            "generator": json.loads(json.dumps(asdict(generator_config(run)))),
            "data": _content(self.dataset) if self.dataset and part.of_data else None,
            "protocol": settings,
        }


def _content(dataset: ImageDataset) -> list[str | None]:
    """Hashes of the images and of the ground truth."""
    return [dataset.sha256, sha256(dataset.path / "factors.npz") if dataset.metadata.get("factors") else None]


def _plain(value: Any) -> Any:
    return asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _kept(path: Path, keys: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keys and values of the parts that are still valid; a missing or damaged record holds none."""
    with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):
        record = read_record(path)
        kept = {name: key for name, key in record["of"].items() if name in keys and keys[name] == key}
        return kept, {field: record["measures"][field] for name in kept for field in PARTS[name].gives}
    return {}, {}


def data_of(run: RunFolder) -> ImageDataset:
    """The data set that the run was trained on.

    Raises:
        UserError: it is not known, no longer there, or another one by now.
    """
    provenance = run.provenance()
    if not provenance.get("data"):
        raise UserError(f"{run.config_path} does not say which data set the run used")
    dataset = ImageDataset(provenance["data"])
    if provenance.get("data_sha256", dataset.sha256) != dataset.sha256:
        raise UserError(f"{dataset.path} is not the data set that {run.path} was trained on")
    return dataset
