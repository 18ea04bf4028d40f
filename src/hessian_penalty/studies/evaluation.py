"""Measure runs, once: results are kept in the run folder and found again while nothing they depend on has changed."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
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

    def __call__(
        self, run: RunFolder, tell: Callable[[str, float], None] | None = None, *, parts: Sequence[str] = tuple(PARTS)
    ) -> Measures:
        """The run's measures: from its measures.json where they are still valid, else taken and kept there one by one.

        What other protocols gave for the same weights stays there too, so that no hours are lost.

        Args:
            tell: called with the name of what is measured, and how much of it is done, from 0 to 1.
            parts: of `PARTS`; those that give what `Measures` must have among them.
        """
        path = run.path / "measures.json"
        taken, generator = _taken(run), None
        measures: dict[str, Any] = {"protocol": self.protocol.record()}
        for name in parts:
            part = PARTS[name]
            key = self._key(part, run)
            values = next((entry["values"] for entry in taken if (entry["part"], entry["of"]) == (name, key)), None)
            if values is None:
                progress = partial(_tell_share, tell, name) if tell else None
                if progress:
                    progress(0, 1)
                generator = generator or load_generator(run)
                found = part.take(generator, self.tools, progress)
                values = {field: _plain(found.get(field)) for field in part.gives}
                taken.append({"part": name, "of": key, "values": values})
                write_json(path, {"measures": measures | values, "taken": taken})
            measures |= values
        return from_record(Measures, measures, str(path))

    def _key(self, part: Part, run: RunFolder) -> dict[str, Any]:
        return {
            **_model_key(run),
            "generator": json.loads(json.dumps(asdict(generator_config(run)))),
            "data": _content(self.dataset) if self.dataset and part.of_data else None,
            "protocol": {name: getattr(self.protocol, name) for name in (*part.settings, "seed")},
        }


def _tell_share(tell: Callable[[str, float], None], name: str, done: int, total: int) -> None:
    tell(name, done / total)


def kept_audit(run: RunFolder) -> dict[str, Any] | None:
    """The newest factor audit that the run's measures.json holds of its newest checkpoint, by whatever protocol."""
    audits = [entry["values"]["audit"] for entry in _taken(run) if entry["part"] == "factor audit"]
    return next((audit for audit in reversed(audits) if audit is not None), None)


def _model_key(run: RunFolder) -> dict[str, Any]:
    return {
        "version": MEASURES_VERSION,
        "weights_sha256": sha256(run.latest_checkpoint() / "ema.safetensors"),
    }


def _content(dataset: ImageDataset) -> list[str | None]:
    """Hashes of the images and of the ground truth."""
    return [dataset.sha256, sha256(dataset.path / "factors.npz") if dataset.metadata.get("factors") else None]


def _plain(value: Any) -> Any:
    return asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _taken(run: RunFolder) -> list[dict[str, Any]]:
    """What measures.json holds of the newest checkpoint: {"part", "of", "values"}; a damaged file holds nothing."""
    model = _model_key(run)
    with contextlib.suppress(UserError, KeyError, TypeError, AttributeError):
        entries = read_record(run.path / "measures.json")["taken"]
        return [
            entry
            for entry in entries
            if model.items() <= {name: entry["of"][name] for name in model}.items()
            and set(entry["values"]) == set(PARTS[entry["part"]].gives)
        ]
    return []


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
