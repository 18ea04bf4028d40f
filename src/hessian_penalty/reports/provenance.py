"""Where the page comes from: settings of the models, versions, command."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

from hessian_penalty.reports.entry import ModelGroup
from hessian_penalty.reports.markup import Html, join, tag

_PACKAGES = ("hessian-penalty", "torch", "numpy", "matplotlib", "pillow", "av")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make figures and numbers."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted names and texts.

    >>> flatten({"seed": 0, "penalty": {"weight": 0.1, "layers": ["a"]}})
    {'seed': '0', 'penalty.weight': '0.1', 'penalty.layers': '["a"]'}
    """
    flat: dict[str, str] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value, default=str)
    return flat


def settings_details(group: ModelGroup) -> Html:
    """The settings of all models of a group and of their measurement, folded; those that differ first and in bold."""
    columns = []
    for entry in group.entries:
        protocol = entry.measures.get("protocol")
        columns.append(flatten({**entry.settings, **({"measured_with": protocol} if protocol else {})}))
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        return join()
    differing = [name for name in names if len({column.get(name) for column in columns}) > 1]
    rows = []
    for name in differing + [name for name in names if name not in differing]:
        cells = [tag("td", column.get(name, "–")) for column in columns]
        rows.append(tag("tr", tag("th", name, scope="row"), *cells, class_="differs" if name in differing else None))
    heads = [tag("th", entry.name, scope="col") for entry in group.entries]
    summary = f"Settings: {len(names)} in all"
    if len(columns) > 1:
        summary += f", {len(differing)} of them differ between the models (shown first)"
    table = tag("table", tag("thead", tag("tr", tag("td"), *heads)), tag("tbody", *rows), class_="settings")
    return tag("details", tag("summary", summary), tag("div", table, class_="scroll"))


def provenance_section(command: str | None, facts: Mapping[str, str]) -> Html:
    """Command, what the caller knows, and versions."""
    lines = {**({"command": command} if command else {}), **facts}
    terms = [
        join(tag("dt", name), tag("dd", tag("code", text) if name == "command" else text))
        for name, text in lines.items()
    ]
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    return tag(
        "section",
        tag("h2", "Provenance"),
        tag("dl", *terms, tag("dt", "versions"), tag("dd", used)),
        class_="provenance",
    )
