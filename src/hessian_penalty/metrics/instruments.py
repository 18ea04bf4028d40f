"""What measures need besides the generator: networks, and what the data gives; each made when first asked for."""

from collections.abc import Callable
from functools import cached_property

from jaxtyping import Float
from torch import Tensor, nn

from hessian_penalty.data.image_dataset import ImageDataset
from hessian_penalty.metrics.features import EfficientNetFeatures
from hessian_penalty.metrics.inception import InceptionFeatures
from hessian_penalty.metrics.perceptual import EfficientNetDistance, LPIPSDistance, PerceptualDistance
from hessian_penalty.metrics.probe import FactorProbe, trained_probe
from hessian_penalty.metrics.protocol import MeasureProtocol
from hessian_penalty.metrics.reference import reference_features

EXTRACTORS: dict[str, type[EfficientNetFeatures] | type[InceptionFeatures]] = {
    "efficientnet-lite0": EfficientNetFeatures,
    "inception-v3": InceptionFeatures,
}
DISTANCES: dict[str, Callable[[int], PerceptualDistance]] = {
    "efficientnet-lite0": EfficientNetDistance,
    "lpips-vgg16": LPIPSDistance,
}


class Instruments:
    """Extractor, reference features, perceptual distance and factor probe, as a protocol wants them.

    What the data gives is kept in the disk cache.

    Args:
        protocol: numbers of samples, and which networks.
        dataset: the real images; None leaves out what needs them.
        resolution: of the generators, to which real images are shrunk; None takes the data set's.

    Raises:
        UserError: from an attribute: its optional package is missing, or the data does not fit.
    """

    def __init__(
        self, protocol: MeasureProtocol, dataset: ImageDataset | None = None, resolution: int | None = None
    ) -> None:
        self.protocol, self.dataset = protocol, dataset
        self.resolution = resolution or (dataset.resolution if dataset else 0)

    @cached_property
    def extractor(self) -> nn.Module:
        """Images → features."""
        return EXTRACTORS[self.protocol.extractor]()

    @cached_property
    def reference(self) -> Float[Tensor, "images features"] | None:
        """Features of the real images; None where no distance is wanted or there is no data."""
        if self.dataset is None or not self.protocol.frechet_images:
            return None
        return reference_features(
            self.dataset, self.extractor, resolution=self.resolution, count=self.protocol.reference_images or None,
            batch_size=self.protocol.batch_size,
        )  # fmt: skip

    @property
    def num_features(self) -> int:
        """Of the extractor, which is not needed for it."""
        return EXTRACTORS[self.protocol.extractor].num_features

    @property
    def compared_images(self) -> int:
        """The fewer of generated and real images."""
        there = len(self.dataset) if self.dataset else 0
        return min(self.protocol.frechet_images, there, self.protocol.reference_images or there)

    @cached_property
    def distance(self) -> PerceptualDistance | None:
        """Of the path length; None where none is wanted."""
        if not self.protocol.path_length_pairs:
            return None
        return DISTANCES[self.protocol.perceptual_distance](self.protocol.path_length_pixels)

    @cached_property
    def probe(self) -> FactorProbe | None:
        """Images → factors; None where no audit is wanted or the data has no ground truth."""
        if self.dataset is None or not self.protocol.audit_images or not self.dataset.metadata.get("factors"):
            return None
        return trained_probe(self.dataset, self.resolution)

    def load_networks(self) -> None:
        """Load what measures of images need, so that a missing package is told before hours of work."""
        if self.compared_images:
            _ = self.extractor
        _ = self.distance

    def prepare(self) -> None:
        """Make all of them now."""
        for name in ("reference", "distance", "probe"):
            getattr(self, name)
