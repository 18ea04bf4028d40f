import colorsys
import math

import numpy as np
import pytest
import torch

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.errors import UserError
from hessian_penalty.metrics.probe import FactorProbe, _augmented, ordered_objects, trained_probe

SHAPES = ("square", "ring")


def draw(folder, count, seed=0, shuffled=False, described=True):
    """16-pixel pictures of a square or ring of 6 pixels on grey: x, y, hue and shape."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 10, (2, count))
    hue, shape = rng.random(count), rng.integers(0, 2, count)
    images = np.full((count, 16, 16, 3), 90, np.uint8)
    for image, column, row, h, s in zip(images, x, y, hue, shape, strict=True):
        image[row : row + 6, column : column + 6] = [round(255 * c) for c in colorsys.hsv_to_rgb(h, 1, 1)]
        if s == 1:
            image[row + 2 : row + 4, column + 2 : column + 4] = 90
    folder.mkdir()
    np.save(folder / "images.npy", images)
    order = rng.permutation(count) if shuffled else np.arange(count)
    factors = [
        Factor("x", "continuous", 100 + 10 * x[order].astype(np.float32)),
        Factor("y", "continuous", y[order].astype(np.float64)),
        Factor("hue", "circular", hue[order]),
        Factor("shape", "categorical", shape[order], SHAPES),
    ]
    ImageDataset.finish(folder, factors if described else [], name="drawn")
    return ImageDataset(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("probe")


@pytest.fixture(scope="module")
def drawn(folder):
    return draw(folder / "drawn", 500)


@pytest.fixture(scope="module")
def probe(drawn):
    return trained_probe(drawn, 16)


def test_scores_of_what_can_be_seen(probe):
    assert list(probe.scores) == ["x", "y", "hue", "shape"]
    assert all(probe.scores[name] > 0.95 for name in ("x", "y", "hue"))
    assert probe.scores["shape"] > 0.95
    assert list(probe.majority) == ["shape"]
    assert 0.3 < probe.majority["shape"] < 0.7


def test_predicts_new_pictures_in_the_units_of_the_data(probe, folder):
    new = draw(folder / "new", 200, seed=1)
    predicted = probe(new.batch(slice(start, start + 70)) for start in range(0, 200, 70))
    x, y, hue, shape = predicted
    true_x, true_y, true_hue, true_shape = new.factors()
    assert [(f.name, f.kind, f.categories) for f in predicted] == [
        (f.name, f.kind, f.categories) for f in new.factors()
    ]
    assert all(len(factor.values) == 200 for factor in predicted)
    assert float(np.abs(x.values - true_x.values).mean()) < 6  # of 0 ... 90
    assert float(np.abs(y.values - true_y.values).mean()) < 0.6
    assert hue.values.min() >= 0 and hue.values.max() < 1
    around = np.abs((hue.values - true_hue.values + 0.5) % 1 - 0.5)
    assert float(around.mean()) < 0.03
    assert shape.values.dtype.kind == "i"
    assert float((shape.values == true_shape.values).mean()) > 0.95


def test_each_image_counts_alone(probe, drawn):
    images = drawn.batch(slice(0, 40))
    for together, apart in zip(probe([images]), probe(images.split(7)), strict=True):
        assert np.allclose(together.values, apart.values, atol=1e-3)


def test_shuffled_labels_score_nothing(folder):
    """What was learned by heart has an R² below 0 on other images; an accuracy of 50 images strays by 0.07."""
    scores = trained_probe(draw(folder / "shuffled", 250, shuffled=True), 16).scores
    assert all(scores[name] < 0.15 for name in ("x", "y", "hue"))
    assert 0.2 < scores["shape"] < 0.8


def test_kept_in_the_cache(probe, drawn, monkeypatch):
    def fail(*_):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(FactorProbe, "train", fail)
        again = trained_probe(drawn, 16)
        images = drawn.batch(slice(0, 20))
        for first, second in zip(probe([images]), again([images]), strict=True):
            assert np.array_equal(first.values, second.values)
        assert again.scores == probe.scores and again.majority == probe.majority
        with pytest.raises(AssertionError, match="trained again"):
            trained_probe(drawn, 8)
        with pytest.raises(AssertionError, match="trained again"):
            trained_probe(drawn, 16, seed=1)


def test_other_factors_of_the_same_images_are_another_probe(folder, drawn, monkeypatch):
    other = draw(folder / "other", 500)
    factors = [Factor(f.name, f.kind, f.values[::-1].copy(), f.categories) for f in other.factors()]
    ImageDataset.finish(folder / "other", factors)
    other = ImageDataset(folder / "other")
    assert other.sha256 == drawn.sha256
    monkeypatch.setattr(FactorProbe, "train", lambda self, dataset, progress: self.scores.update(x=math.pi))
    with pytest.raises(KeyError, match="score:y"):
        trained_probe(other, 16)


def test_trained_at_a_lower_resolution_with_progress_and_nothing_drawn_globally(folder):
    small, calls = draw(folder / "small", 100), []
    state = torch.get_rng_state()
    probe = trained_probe(small, 8, progress=lambda *done: calls.append(done))
    assert torch.equal(torch.get_rng_state(), state)
    assert calls[-1] == (50, 50) and len(calls) == 50  # 40 rounds of 80 images in batches of 64
    assert len(probe([small.batch(slice(0, 3), 8)])[0].values) == 3


def test_seeds_decide(folder, monkeypatch):
    monkeypatch.setattr("hessian_penalty.metrics.probe.MOST_IMAGES_SEEN", 320)
    data = draw(folder / "seeds", 120)
    scores = []
    for seed in (0, 0, 1):
        probe = FactorProbe(data.factors(), 3, 16, seed)
        probe.train(data)
        scores.append(probe.scores)
    assert scores[0] == scores[1] != scores[2]


def test_constant_and_unseen_factors(tmp_path):
    """A factor without variation has nothing to explain; categories without a picture still have an output."""
    images = np.random.default_rng(0).integers(0, 255, (100, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    factors = [
        Factor("size", "continuous", np.full(100, 0.7)),
        Factor("shape", "categorical", np.zeros(100), ("a", "b", "c")),
        Factor("plain", "categorical", np.arange(100) % 4),
    ]
    ImageDataset.finish(tmp_path, factors)
    data = ImageDataset(tmp_path)
    probe = trained_probe(data, 8)
    assert probe.scores["size"] == 0 and probe.scores["shape"] == 1 and probe.majority["shape"] == 1
    size, shape, plain = probe([data.batch(slice(None))])
    assert np.allclose(size.values, 0.7, atol=0.2) and set(shape.values) == {0} and set(plain.values) <= {0, 1, 2, 3}


def test_augmentation_neither_moves_nor_mirrors():
    """On average over draws: the mean of image and blurred image, and noise of the stated size."""
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 1, 6] = 1.0
    many = _augmented(image.expand(4000, 1, 8, 8), torch.Generator().manual_seed(0))
    expected = 0.5 * image[0, 0]
    expected[0:3, 5:8] += 0.5 / 9
    assert torch.allclose(many.mean(dim=0)[0], expected, atol=0.02)
    far = many[:, 0, 5:, :4]  # noise alone, of a deviation uniform in [0, 0.1]: variance 0.01 / 3
    assert float(far.square().mean()) == pytest.approx(0.01 / 3, rel=0.1)


def test_objects_are_ordered_from_left_to_right():
    factors = [
        Factor("x0", "continuous", np.array([1.0, 4.0, 2.0])),
        Factor("hue0", "circular", np.array([0.1, 0.2, 0.3])),
        Factor("light", "continuous", np.array([7.0, 8.0, 9.0])),
        Factor("shape0", "categorical", np.array([0, 1, 2]), ("a", "b", "c")),
        Factor("x1", "continuous", np.array([3.0, -1.0, 2.0])),
        Factor("hue1", "circular", np.array([0.4, 0.5, 0.6])),
        Factor("shape1", "categorical", np.array([2, 0, 1]), ("a", "b", "c")),
        Factor("size1", "continuous", np.array([5.0, 6.0, 7.0])),
    ]
    ordered = ordered_objects(factors)
    assert [(f.name, f.kind, f.categories) for f in ordered] == [(f.name, f.kind, f.categories) for f in factors]
    assert {f.name: f.values.tolist() for f in ordered} == {
        "x0": [1, -1, 2], "hue0": [0.1, 0.5, 0.3], "light": [7, 8, 9], "shape0": [0, 0, 2],
        "x1": [3, 4, 2], "hue1": [0.4, 0.2, 0.6], "shape1": [2, 1, 1], "size1": [5, 6, 7],
    }  # fmt: skip
    assert ordered[3].values.dtype.kind == "i"


def test_one_object_stays_as_it_is():
    factors = [Factor("x", "continuous", np.array([2.0, 1.0])), Factor("y1", "continuous", np.array([3.0, 4.0]))]
    assert ordered_objects(factors) == factors


def test_a_probe_learns_ordered_objects(tmp_path, monkeypatch):
    images = np.zeros((100, 8, 8, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    values = np.arange(100.0)
    ImageDataset.finish(tmp_path, [Factor("x0", "continuous", values), Factor("x1", "continuous", 99 - values)])
    learned = []

    def train(self, dataset, progress):
        learned.extend(head.factor.values for head in self._heads)
        self.scores = dict.fromkeys(("x0", "x1"), 0.0)

    monkeypatch.setattr(FactorProbe, "train", train)
    trained_probe(ImageDataset(tmp_path), 8)
    assert (learned[0] < learned[1]).all()


def test_images_of_another_shape_are_refused(probe):
    for shape in ((3, 8, 8), (1, 16, 16)):
        with pytest.raises(UserError, match=r"trained on images of the shape \(3, 16, 16\), got \("):
            probe([torch.zeros(2, *shape)])


def test_no_image_is_refused(probe):
    with pytest.raises(UserError, match="A probe needs at least one image, got none"):
        probe([])


def test_data_without_factors_is_refused(folder):
    with pytest.raises(UserError, match="has no ground-truth factors, which a probe learns from.*hessian-penalty rend"):
        trained_probe(draw(folder / "bare", 100, described=False), 16)


def test_too_few_images_are_refused(small_dataset):
    with pytest.raises(UserError, match=r"at least 100 images to learn from, and .*squares has 64; make the data set"):
        trained_probe(small_dataset, 16)


def test_a_resolution_that_does_not_fit_is_refused(drawn):
    with pytest.raises(UserError, match="has 16-pixel images, which cannot be shrunk to 12"):
        trained_probe(drawn, 12)
    with pytest.raises(UserError, match="a power of two from 8 pixels, got 4 pixels"):
        trained_probe(drawn, 4)
