import pytest

from hessian_penalty.errors import UserError
from hessian_penalty.studies.arms import ARMS, DEFAULT_ARMS, training_of, with_starts
from hessian_penalty.training.presets import PRESETS

TINY = PRESETS["clevr-simple-tiny"]


def kimg(name):
    """Images that an arm has seen in all."""
    arm = ARMS[name]
    own = training_of(arm, TINY, 0, 64.0, 16.0).total_kimg if arm.method else 0.0
    return own + (kimg(arm.start) if arm.start else 0.0)


def test_every_model_that_is_compared_has_seen_as_many_images():
    assert {kimg(name) for name, arm in ARMS.items() if arm.compared} == {64.0}
    assert kimg("start") == 48.0


def test_each_arm_comes_after_its_start():
    seen = set()
    for arm in with_starts(DEFAULT_ARMS):
        assert arm.start is None or arm.start in seen
        seen.add(arm.name)
    assert seen == set(ARMS) - {"published"}  # the same as "hessian" in the full-size presets


def test_methods():
    def config(name, seed=2):
        return training_of(ARMS[name], TINY, seed, 64.0, 16.0)

    assert not config("vanilla").penalty.enabled
    assert config("infogan").infogan.latents == 4
    assert config("orojar").penalty.form == "orojar"
    assert config("hessian").penalty == TINY.hessian
    assert config("published").penalty.weight == 0.1 and config("published").penalty.reduction == "max"
    assert config("finetuned").penalty.ramp_kimg == TINY.ramp_kimg
    assert config("finetuned").penalty == config("rotated-finetuned").penalty


def test_seeds():
    def seed(name):
        return training_of(ARMS[name], TINY, 2, 64.0, 16.0).seed

    assert seed("start") == seed("infogan") == 2
    assert seed("vanilla") == seed("finetuned") == 1002  # the same draws for both, others than the start's
    with pytest.raises(ValueError, match="'rotated' is not trained"):
        seed("rotated")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "none"),
        (("vanilla", "infogam"), "infogam"),
        (("vanilla", "start"), "start"),
        (("vanilla", "vanilla"), "vanilla, vanilla"),
    ],
)
def test_what_is_no_set_of_models_is_refused(names, told):
    with pytest.raises(UserError, match=f"one or more of vanilla, .*, each once; got {told}\\."):
        with_starts(names)
