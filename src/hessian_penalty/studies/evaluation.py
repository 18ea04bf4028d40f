"""Measure runs, once: results are kept in the run folder and found again while nothing they depend on has changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from hessian_penalty.data.image_dataset import ImageDataset, sha256
from hessian_penalty.errors import UserError
from hessian_penalty.generators.loading import load_generator
from hessian_penalty.metrics.features import EfficientNetFeatures
from hessian_penalty.metrics.frechet import FrechetDistance
from hessian_penalty.metrics.measures import MeasureProtocol, Measures, measure
from hessian_penalty.runs import RunFolder, from_record, read_json, write_json


class Evaluator:
    """Measures runs against one data set by one protocol.

    Args:
        protocol: numbers of samples.
        dataset: the real images; None leaves the Fréchet distance out. Its first `protocol.frechet_images` are the
            reference, read when first needed.
        resolution: of the generators, to which the real images are shrunk.
    """

    def __init__(self, protocol: MeasureProtocol, dataset: ImageDataset | None, resolution: int | None = None) -> None:
        self.protocol, self.dataset, self.resolution = protocol, dataset, resolution
        self._distance: FrechetDistance | None = None

    def __call__(self, run: RunFolder) -> Measures:
        """The run's measures, from `measures.json` where it is still valid."""
        path = run.path / "measures.json"
        key = self._key(run)
        if path.exists():
            record = read_json(path)
            if record.get("of") == key:
                return from_record(Measures, record["measures"], str(path))
        found = measure(load_generator(run), self.protocol, self._reference())
        write_json(path, {"of": key, "measures": found.record()})
        return found

    def _key(self, run: RunFolder) -> dict[str, Any]:
        return {
            "weights_sha256": sha256(run.latest_checkpoint() / "ema.safetensors"),
            "data_sha256": self.dataset.metadata["sha256"] if self.dataset else None,
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


def data_of(run: RunFolder) -> ImageDataset | None:
    """The data set that the run was trained on, or None where it is no longer there."""
    provenance = read_json(run.config_path).get("provenance", {})
    path = provenance.get("data")
    try:
        return ImageDataset(Path(path)) if path else None
    except UserError:
        return None
