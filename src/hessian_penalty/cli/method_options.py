"""Naming a discovery method and its settings on the command line."""

import dataclasses
from collections.abc import Sequence
from typing import Any, get_type_hints

from hessian_penalty.directions.discover import METHODS
from hessian_penalty.directions.method import Method
from hessian_penalty.errors import LARGEST_SEED, UserError


def gathered(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line with all that was given to `--set`, once or several times, in one place.

    >>> gathered(["RUN", "--set", "a=1", "--seed", "3", "--set", "b=2", "c=3"])
    ['RUN', '--seed', '3', '--set', 'a=1', 'b=2', 'c=3']
    """
    others: list[str] = []
    settings: list[str] = []
    target = others
    for word in arguments:
        if word == "--set" or word.startswith("--set="):
            target = settings
            if word == "--set":
                continue
            word = word.removeprefix("--set=")
        if word.startswith("--"):
            target = others
        target.append(word)
    return [*others, *(["--set", *settings] if settings or "--set" in arguments else [])]


def parse_method(name: str, settings: Sequence[str]) -> Method:
    """Return the method with its settings, each written NAME=VALUE.

    >>> parse_method("hessian", ["sketches=64"]).sketches
    64

    Raises:
        UserError: an unknown method or setting, or a value that is none for it.
    """
    if name not in METHODS:
        raise UserError(f"--method {name!r} is unknown; choose one of {', '.join(METHODS)}.")
    kind = METHODS[name]
    types = {field.name: get_type_hints(kind)[field.name] for field in dataclasses.fields(kind)}
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key not in types or not equals:
            known = ", ".join(types) or "none"
            raise UserError(f"--set {setting!r} is no setting of {name}, written NAME=VALUE; it has: {known}.")
        values[key] = _value(types[key], text, setting)
    return kind(**values)


def _value(kind: Any, text: str, setting: str) -> Any:
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"--set {setting}: write true or false.")
    number = next((number for number in (int, float) if kind is number), None)
    if number is None:
        return text  # a word; the method checks it
    try:
        value = number(text)
    except ValueError:
        what = "a whole number" if number is int else "a number"
        raise UserError(f"--set {setting}: {text!r} is not {what}.") from None
    if abs(value) > LARGEST_SEED:
        raise UserError(f"--set {setting}: the number is too large, beyond {LARGEST_SEED:g}.")
    return value


def settings_help() -> str:
    """Return each method's settings with their defaults, for --help."""
    lines = []
    for name, kind in METHODS.items():
        fields = dataclasses.fields(kind)
        defaults = ", ".join(f"{field.name}={field.default}" for field in fields)
        lines.append(f"{name}: {defaults or 'no settings'}")
    return "; ".join(lines)
