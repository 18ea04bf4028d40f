"""Measure runs, once: results are kept in the run folder and found again while nothing they depend on has changed."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from torch import Tensor

from hessian_penalty.data.image_dataset import ImageDataset, sha256
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import generator_config, load_generator
from hessian_penalty.metrics.features import EfficientNetFeatures
from hessian_penalty.metrics.frechet import FrechetDistance
from hessian_penalty.metrics.measures import MeasureProtocol, Measures, measure
from hessian_penalty.runs import RunFolder, from_record, read_record, write_json

MEASURES_VERSION = 1  # raised when a measure changes, so that kept results are not taken for new ones


class Evaluator:
    """Measures runs against one data set by one protocol.

    Args:
        protocol: numbers of samples.
        dataset: the real images; None leaves the Fréchet distance out. Its first `protocol.frechet_images` are the
            reference, read when first needed.
        resolution: of the generators, to which the real images are shrunk.
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
        self.protocol, self.dataset, self.resolution = protocol, dataset, resolution
        self.why_no_data = why_no_data
        self._distance: FrechetDistance | None = None

    def __call__(self, run: RunFolder) -> Measures:
        """The run's measures, from `measures.json` where it is still valid."""
        path = run.path / "measures.json"
        key = self._key(run)
        with contextlib.suppress(UserError, KeyError):  # a missing or damaged record is measured again
            record = read_record(path)
            if record.get("of") == key:
                return from_record(Measures, record["measures"], str(path))
        found = measure(load_generator(run), self.protocol, self._reference())
        write_json(path, {"of": key, "measures": found.record()})
        return found

    def _key(self, run: RunFolder) -> dict[str, Any]:
        return {
            "version": MEASURES_VERSION,
            "weights_sha256": sha256(run.latest_checkpoint() / "ema.safetensors"),
            "generator": json.loads(json.dumps(asdict(generator_config(run)))),
            "data_sha256": self.dataset.sha256 if self.dataset else None,
            "protocol": self.protocol.record(),
        }

    def _reference(self) -> FrechetDistance | None:
        if self.dataset is not None and self._distance is None:
            self._distance = FrechetDistance(EfficientNetFeatures(), self._real_batches(self.dataset))
        return self._distance

    def _real_batches(self, dataset: ImageDataset) -> Iterator[Tensor]:
        count = min(self.protocol.frechet_images, len(dataset))
        for start in range(0, count, self.protocol.batch_size):
            yield dataset.batch(slice(start, min(start + self.protocol.batch_size, count)), self.resolution)


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
