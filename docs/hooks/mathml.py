"""Turns the formulas of a page into MathML when the site is built: no script, nothing fetched by the reader."""

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex (generic) makes of $...$ and $$...$$.
FORMULA = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', flags=re.DOTALL)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Replace every formula of a page.

    Raises:
        PluginError: a formula holds what the converter does not know and would print as it stands.
    """

    def formula(match: re.Match[str]) -> str:
        latex = html.unescape(match["latex"]).strip()
        mathml = convert(latex, display="block" if match["tag"] == "div" else "inline")
        if "\\" in mathml or "<mi>&" in mathml.replace("<mi>&#", ""):
            raise PluginError(f"{page.file.src_uri}: a command of this formula has no MathML: {latex}")
        return mathml

    return FORMULA.sub(formula, content)
