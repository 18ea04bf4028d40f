"""Features of the real images, read once and kept in the disk cache."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.cache import cached_tensors
from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.metrics.features import image_features

FEATURES_VERSION = 1  # raised when an extractor changes, so that kept features are not taken for new ones


def reference_features(
    dataset: ImageDataset,
    extractor: nn.Module,
    *,
    resolution: int,
    count: int | None = None,
    batch_size: int = 128,
) -> Float[Tensor, "images features"]:
    """Features of the first `count` images, float32 on the CPU.

    They are kept by the images' content hash; a data set that does not state one is read each time.

    Args:
        extractor: images in [-1, 1] → features; has `name`.
        resolution: to which the images are shrunk first, as the generators make them.
        count: images; None takes all, as does a number beyond them.
        batch_size: images a pass; bounds memory.

    Raises:
        UserError: the data set is empty or cannot be shrunk to `resolution`.
    """
    used = min(count or len(dataset), len(dataset))

    def batches() -> Iterator[Tensor]:
        for start in range(0, used, batch_size):
            yield dataset.batch(slice(start, min(start + batch_size, used)), resolution)

    def make() -> dict[str, Tensor]:
        return {"features": image_features(extractor, batches())}

    if dataset.sha256 is None:
        return make()["features"]
    key = {
        "version": FEATURES_VERSION, "data_sha256": dataset.sha256, "extractor": str(extractor.name),
        "resolution": resolution, "count": used,
    }  # fmt: skip
    return cached_tensors("features", key, make)["features"]
