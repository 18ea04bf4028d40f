"""A small data set and a small trained run, made once a session."""

import dataclasses
import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest

from hessian_penalty.data.image_dataset import Factor, ImageDataset
from hessian_penalty.generators.progan import ProGANConfig
from hessian_penalty.runs import RunFolder
from hessian_penalty.training.config import TrainingConfig
from hessian_penalty.training.session import start_run

# What a shell starts in the background ignores Ctrl-C; some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """The tests neither see nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def small_dataset(tmp_path_factory):
    """64 pictures of 16 pixels: a light square on grey whose column is its one factor."""
    folder = tmp_path_factory.mktemp("data") / "squares"
    folder.mkdir()
    columns = np.random.default_rng(0).integers(0, 12, 64)
    images = np.full((64, 16, 16, 3), 100, np.uint8)
    for image, column in zip(images, columns, strict=True):
        image[6:10, column : column + 4] = (220, 60, 60)
    np.save(folder / "images.npy", images)
    ImageDataset.finish(folder, [Factor("x", "continuous", columns.astype(np.float32))], name="squares")
    return ImageDataset(folder)


SMALL = TrainingConfig(
    generator=ProGANConfig(latent_dim=4, channels=(12, 8, 8)), total_kimg=0.128, batch_size=16, log_kimg=0.032,
    snapshot_kimg=0.064,
)  # fmt: skip


@pytest.fixture(scope="session")
def small_run(small_dataset, tmp_path_factory):
    """A vanilla run of 8 steps: 4 latents, 16 pixels."""
    out = tmp_path_factory.mktemp("runs") / "vanilla"
    start_run(SMALL, small_dataset, out, accelerator="cpu").train()
    return RunFolder.open(out)


@pytest.fixture(autouse=True)
def unmeasured(request):
    """No test finds what another measured of `small_run`."""
    if "small_run" in request.fixturenames:
        (request.getfixturevalue("small_run").path / "measures.json").unlink(missing_ok=True)


@pytest.fixture
def small_config():
    """The settings of `small_run`."""
    return dataclasses.replace(SMALL)
