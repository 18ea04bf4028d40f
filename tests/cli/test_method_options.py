import dataclasses
import re

import pytest

from hessian_penalty.cli.method_options import gathered, parse_method, settings_help
from hessian_penalty.directions.discover import METHODS
from hessian_penalty.directions.ganspace import GANSpaceSearch
from hessian_penalty.directions.hessian import HessianSearch
from hessian_penalty.directions.voynov import VoynovSearch
from hessian_penalty.errors import UserError


@pytest.mark.parametrize("name", METHODS)
def test_without_settings_a_method_has_its_own_defaults(name):
    assert parse_method(name, []) == METHODS[name]()


def test_settings_take_the_type_of_their_field():
    found = parse_method("voynov", ["steps=7", "learning_rate=1e-3", "largest_shift=4", "orthonormal=False"])
    assert found == VoynovSearch(steps=7, learning_rate=1e-3, largest_shift=4.0, orthonormal=False)
    assert type(found.steps) is int
    assert type(found.largest_shift) is float
    assert parse_method("voynov", ["orthonormal=true", "init=coordinates"]) == VoynovSearch(init="coordinates")
    assert parse_method("ganspace", ["layer=blocks.0=x"]) == GANSpaceSearch(layer="blocks.0=x")
    assert parse_method("hessian", ["rounds=1", "sketches=64"]) == HessianSearch(sketches=64, rounds=1)


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("closed-form", "", "--method 'closed-form' is unknown; choose one of hessian, hessian-gradient, orojar, sefa"),
        ("Hessian", "", "--method 'Hessian' is unknown"),
        ("orojar", "steps=3", "--set 'steps=3' is no setting of orojar, written NAME=VALUE; it has: samples, held_out"),
        ("orojar", "samples", "--set 'samples' is no setting of orojar, written NAME=VALUE"),
        ("orojar", "=3", "--set '=3' is no setting of orojar"),
        ("orojar", "samples =3", "--set 'samples =3' is no setting of orojar"),
        ("hessian", "name=3", "--set 'name=3' is no setting of hessian"),
        ("random", "seed=3", "--set 'seed=3' is no setting of random, written NAME=VALUE; it has: none."),
        ("voynov", "steps=two", "--set steps=two: 'two' is not a whole number."),
        ("voynov", "steps=2.5", "--set steps=2.5: '2.5' is not a whole number."),
        ("voynov", "steps=", "--set steps=: '' is not a whole number."),
        ("voynov", "learning_rate=fast", "--set learning_rate=fast: 'fast' is not a number."),
        ("voynov", "orthonormal=1", "--set orthonormal=1: write true or false."),
        ("voynov", "init=zeros", "`init` must be one of 'random', 'coordinates', got 'zeros'"),
        ("voynov", "steps=0", "steps must be a finite number at least 1, got 0"),
        ("hessian", "epsilon=nan", "epsilon must be a finite number at least 1e-06, got nan"),
    ],
)
def test_mistakes_name_the_setting_and_the_remedy(name, setting, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_method(name, [setting] if setting else [])


def test_help_holds_every_setting_with_its_default():
    """What the help says, given as settings, is the method as it is."""
    described = dict(entry.split(": ", 1) for entry in settings_help().split("; "))
    assert list(described) == list(METHODS)
    for name, text in described.items():
        settings = [] if text == "no settings" else text.split(", ")
        assert len(settings) == len(dataclasses.fields(METHODS[name]))
        assert parse_method(name, [s for s in settings if not s.endswith("=None")]) == METHODS[name]()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("RUN --out x", "RUN --out x"),
        ("RUN --set a=1 --out x", "RUN --out x --set a=1"),
        ("RUN --set a=1 --out x --set b=2 c=3", "RUN --out x --set a=1 b=2 c=3"),
        ("RUN --set --out x", "RUN --out x --set"),
    ],
)
def test_all_that_is_set_is_gathered(given, meant):
    assert gathered(given.split()) == meant.split()
