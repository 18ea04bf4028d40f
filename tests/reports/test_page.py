import base64
import dataclasses
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from hessian_penalty.errors import UserError
from hessian_penalty.reports.entry import ModelEntry, ModelGroup
from hessian_penalty.reports.markup import tag
from hessian_penalty.reports.page import report_html, write_report

Measures = Callable[..., dict[str, Any]]
VOID = {"br", "img", "link", "meta"}


class Page(HTMLParser):
    """Tags with their attributes, the text, and whether every tag that opens closes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + " "

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def content(address: str | None) -> bytes:
    assert address is not None
    assert address.startswith("data:")
    return base64.b64decode(address.split(",", 1)[1])


def page_of(*entries: ModelEntry, **options: Any) -> Page:
    return Page(report_html("Report", [ModelGroup("clevr-simple", entries)], **options))


def test_nothing_comes_from_outside_the_page(reference: ModelEntry, better: ModelEntry) -> None:
    page = page_of(reference, better)
    addresses = [(tag, value) for tag, found in page.tags for key, value in found.items() if key in ("src", "href")]
    assert addresses
    assert all(value and value.startswith(("data:", "#")) for _, value in addresses)
    assert not page.all("script")
    assert not page.all("link")
    text = report_html("Report", [ModelGroup("g", [reference])])
    assert "@import" not in text
    assert "url(" not in text
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'")


def test_pictures_and_video_decode_and_have_texts_for_the_blind(reference: ModelEntry, better: ModelEntry) -> None:
    page = page_of(reference, better)
    for image in page.all("img"):
        assert image["alt"]
        data = content(image["src"])
        if (image["src"] or "").startswith("data:image/png"):
            assert np.asarray(Image.open(io.BytesIO(data))).size > 0
        else:
            assert data.startswith(b"<?xml")
    (video,) = page.all("video")
    assert {"autoplay", "loop", "muted", "playsinline"} <= set(video)
    assert video["aria-label"]
    with av.open(io.BytesIO(content(video["src"]))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 90
    assert "no video was made" in page.text


def test_each_kind_of_figure_has_a_line_that_says_how_to_read_it(reference: ModelEntry, better: ModelEntry) -> None:
    page = page_of(reference, better)
    readings = [found for tag, found in page.tags if tag == "figcaption" and found.get("class") == "reading"]
    assert len(readings) == 7  # samples, traversals, motion, activeness twice, Hessian, training
    for title in ("Samples", "Traversals", "Traversals in motion", "Activeness", "Hessian", "Training"):
        assert f"{title} " in page.text


def test_the_table_compares_with_the_first_model(reference: ModelEntry, better: ModelEntry) -> None:
    page = page_of(reference, better)
    words = re.sub(r"\s+", " ", page.text)
    assert "Effective latents ↓" in words
    assert "2.0 of 3" in words
    assert "1.0 of 3 −50% better" in words
    assert "10% −75% better" in words
    assert "55 +10% worse" in words
    assert "efficientnet-lite0" in words
    assert "90 kimg +50%" in words
    assert "+50% better" not in words
    assert words.count("vanilla") > 6
    assert words.count("penalised") > 6


def test_distances_of_different_extractors_are_not_compared(
    reference: ModelEntry, better: ModelEntry, measures: Measures
) -> None:
    record = measures(frechet=55.0, extractor="inception-v3")
    words = page_of(reference, dataclasses.replace(better, measures=record)).text
    assert "inception-v3" in words
    assert "+10%" not in words


def test_text_is_escaped(reference: ModelEntry, measures: Measures) -> None:
    hostile = '<script>alert("x")</script> & co'
    entry = dataclasses.replace(
        reference, name=hostile, description=hostile, settings={hostile: hostile}, missing={"frechet": hostile},
        measures=measures(frechet=None),
    )  # fmt: skip
    group = ModelGroup(hostile, [entry], description=hostile)
    page = Page(
        report_html(hostile, [group, ModelGroup("b", [reference])], command=hostile, provenance={hostile: hostile})
    )
    assert not page.all("script")
    assert page.text.count(hostile) > 8


def test_missing_measures_are_dashes_with_a_reason(reference: ModelEntry, measures: Measures) -> None:
    nothing: dict[str, Any] = dict.fromkeys(measures())
    entry = dataclasses.replace(
        reference, name="bare", measures=nothing, metrics=None, traversal_mp4=None,
        missing={"frechet": "no data set was given"},
    )  # fmt: skip
    page = page_of(reference, entry)
    words = re.sub(r"\s+", " ", page.text)
    assert "– no data set was given" in words
    assert "– not measured" in words
    assert "– activeness was not measured" in words
    assert "– the Hessian was not measured" in words
    alone = page_of(dataclasses.replace(entry, measures={}))
    assert not alone.all("video")
    assert "None" not in alone.text
    assert not re.search(r"\bnan\b", alone.text)


AUDIT = {
    "factors": ("x", "hue"),
    "probe_scores": (0.99, 0.97),
    "mutual_information": ((0.75, 0.0), (0.0, 0.5), (0.0, 0.0)),
    "latent_names": ("x", "hue", ""),
    "mig": 0.4,
    "sap": 0.3,
}


def test_optional_measures_come_only_where_a_model_has_them(reference: ModelEntry, measures: Measures) -> None:
    plain = re.sub(r"\s+", " ", page_of(reference).text)
    assert not any(words in plain for words in ("Mutual information gap", "Path length", "Kernel distance"))
    record = measures(audit=AUDIT, path_length=90.0, perceptual_distance="lpips-vgg16")
    audited = dataclasses.replace(reference, name="audited", measures=record)
    better = dataclasses.replace(reference, name="better", measures=measures(audit=AUDIT | {"mig": 0.6}))
    words = re.sub(r"\s+", " ", page_of(audited, better).text)
    assert "Mutual information gap ↑" in words
    assert "0.400" in words and "0.600 +50% better" in words
    assert "0.300 ±0%" in words
    assert "lpips-vgg16" in words
    assert "Completeness" not in words


def test_distances_of_inception_have_their_names(reference: ModelEntry, measures: Measures) -> None:
    record = measures(extractor="inception-v3", kernel=0.01)
    inception = dataclasses.replace(reference, name="inception", measures=record)
    words = page_of(inception).text
    assert "FID" in words and "KID" in words and "Fréchet distance" not in words
    assert "FID" not in page_of(reference).text
    assert "FID" not in page_of(inception, reference).text


def test_factors_are_mapped_where_a_model_was_audited(reference: ModelEntry, measures: Measures) -> None:
    assert "Factors" not in page_of(reference).text
    audited = dataclasses.replace(reference, name="audited", measures=measures(audit=AUDIT))
    page = page_of(audited, reference)
    assert "x 0.99, hue 0.97" in page.text
    assert "not audited" in page.text
    (picture,) = (image for image in page.all("img") if "factors of audited" in str(image["alt"]))
    svg = content(picture["src"]).decode()
    assert "z0 = x" in svg and "z1 = hue" in svg and "0.75" in svg


def test_a_summary_comes_before_the_groups(reference: ModelEntry) -> None:
    text = page_of(reference, summary=tag("section", "Over all seeds")).text
    assert text.index("Over all seeds") < text.index("No penalty.")


def test_a_reference_of_zero_gives_no_percentage(reference: ModelEntry, better: ModelEntry, measures: Measures) -> None:
    base = dataclasses.replace(reference, measures=measures(off_diagonal_share=0.0))
    assert "10%" in page_of(base, better).text


def test_settings_that_differ_come_first(reference: ModelEntry, better: ModelEntry) -> None:
    page = page_of(reference, better, command="hessian-penalty report a b", provenance={"made": "2030-01-01"})
    assert page.text.index("penalty.weight") < page.text.index("seed")
    assert "1 of them differ" in page.text
    assert len(page.all("details")) == 1
    assert "hessian-penalty report a b" in page.text
    assert "2030-01-01" in page.text
    assert re.search(r"torch \d", page.text)
    assert re.search(r"python 3\.", page.text)


def test_several_groups_are_listed_and_reachable(reference: ModelEntry, better: ModelEntry) -> None:
    page = Page(report_html("Report", [ModelGroup("one", [reference]), ModelGroup("two", [better])]))
    identifiers = [found["id"] for _, found in page.tags if "id" in found]
    assert len(set(identifiers)) == len(identifiers)
    assert [f"#{identifier}" for identifier in identifiers] == [link["href"] for link in page.all("a")]


def test_left_out_latents_are_mentioned(reference: ModelEntry, measures: Measures) -> None:
    wide = measures(activeness=[0.1] * 20, hessian=np.eye(20).tolist())
    assert "16 most active latents of 20" in page_of(dataclasses.replace(reference, measures=wide)).text


def test_the_page_is_written_whole(reference: ModelEntry, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    groups = [ModelGroup("g", [reference])]
    write_report(path, "Größe", groups)
    text = path.read_text(encoding="utf-8")
    assert text == report_html("Größe", groups)
    assert text.startswith("<!DOCTYPE html>")
    assert list(path.parent.iterdir()) == [path]


def test_helpful_errors(reference: ModelEntry, tmp_path: Path, measures: Measures) -> None:
    with pytest.raises(UserError, match="holds no group of models"):
        write_report(tmp_path / "report.html", "Report", [])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="Group 'a' of the report holds no model"):
        ModelGroup("a", [])
    with pytest.raises(UserError, match="names 'vanilla' twice"):
        ModelGroup("a", [reference, reference])
    with pytest.raises(UserError, match="needs a name"):
        dataclasses.replace(reference, name=" ")
    with pytest.raises(UserError, match="'vanilla': `activeness` must hold one figure for each latent"):
        dataclasses.replace(reference, measures=measures(activeness=[]))
    with pytest.raises(UserError, match=r"`hessian` must be 3 x 3, got shape \(2, 2\)"):
        dataclasses.replace(reference, measures=measures(hessian=[[1.0, 0.0], [0.0, 1.0]]))
