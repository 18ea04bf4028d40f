import dataclasses

import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.metrics.protocol import PROTOCOLS, MeasureProtocol


def test_published_numbers():
    published = PROTOCOLS["published"]
    assert (published.frechet_images, published.path_length_pairs, published.predictability_pairs) == (
        50_000, 100_000, 10_000,
    )  # fmt: skip
    assert (published.activeness_samples, published.hessian_samples, published.path_length_pixels) == (300, 100, 256)
    assert (published.reference_images, published.kernel_subsets) == (0, 100)


def test_the_name_says_whether_numbers_were_changed():
    quick = PROTOCOLS["quick"]
    assert str(dataclasses.replace(quick, seed=3, batch_size=16)).startswith("quick: 5,000 images")
    assert str(dataclasses.replace(quick, frechet_images=2000)).startswith("own: 2,000 images")
    assert str(PROTOCOLS["published"]).startswith("published: 50,000 images, 100,000 pairs")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hessian_samples", 1, "protocol.hessian_samples must be a finite number at least 2, got 1"),
        ("frechet_images", 1, "protocol.frechet_images must be 0, which leaves it out, or at least 2, got 1"),
        ("predictability_pairs", -1, "protocol.predictability_pairs must be 0, .* at least 20, got -1"),
        ("audit_images", 5, "protocol.audit_images must be 0, .* at least 100, got 5"),
        ("path_length_pixels", 8, "protocol.path_length_pixels must be a finite number at least 32"),
        ("reference_images", -1, "protocol.reference_images must be a finite number at least 0"),
        ("kernel_subsets", -1, "protocol.kernel_subsets must be a finite number at least 0"),
        ("seed", -1, "protocol.seed must be a finite number"),
    ],
)
def test_errors(name, value, message):
    with pytest.raises(UserError, match=message):
        MeasureProtocol(**{name: value})


def test_zero_leaves_a_measure_out():
    assert MeasureProtocol(
        frechet_images=0, kernel_subsets=0, path_length_pairs=0, predictability_pairs=0, audit_images=0
    )
