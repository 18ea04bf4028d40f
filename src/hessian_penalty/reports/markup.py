"""HTML that is escaped by construction."""

import base64
import html
from typing import Any

_VOID = ("br", "img", "link", "meta", "source")


class Html(str):
    """Text that is HTML already; any other string is escaped where it enters a tag."""


def escape(value: Any) -> Html:
    """A value as HTML text.

    >>> escape("a < b")
    'a &lt; b'
    """
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(*children: Any) -> Html:
    """Children one after another."""
    return Html("".join(escape(child) for child in children))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """One element; `class_` is written class, `True` an attribute without a value, `None` or `False` none.

    >>> tag("p", "1 < 2, ", tag("b", "truly"), class_="note")
    '<p class="note">1 &lt; 2, <b>truly</b></p>'
    >>> tag("video", src="a.mp4", loop=True)
    '<video src="a.mp4" loop></video>'
    """
    written = ""
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            written += f" {key}"
        elif value is not None and value is not False:
            written += f' {key}="{html.escape(str(value))}"'
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def data_uri(media_type: str, content: bytes) -> str:
    """The content itself as an address, so that a page needs no other file.

    >>> data_uri("text/plain", b"hi")
    'data:text/plain;base64,aGk='
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def png_image(content: bytes, alt: str) -> Html:
    """A PNG file as part of the page."""
    return tag("img", src=data_uri("image/png", content), alt=alt, class_="pixels")


def svg_image(content: bytes, alt: str) -> Html:
    """An SVG file as part of the page."""
    return tag("img", src=data_uri("image/svg+xml", content), alt=alt)


def looping_video(address: str, label: str) -> Html:
    """A video that starts by itself and never ends.

    Args:
        address: of an MP4 file, or the file itself as `data_uri` writes it.
        label: what it shows, for those who cannot see it.
    """
    return tag(
        "video",
        "This browser cannot show the video; the still traversals above show the same.",
        src=address,
        autoplay=True,
        loop=True,
        muted=True,
        playsinline=True,
        controls=True,
        aria_label=label,
    )
