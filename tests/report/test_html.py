"""The HTML report: one file that loads nothing, runs only its own script, and shows any name as text."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings

from qtool.errors import EnvironmentFailure, printable
from qtool.plan.model import RegionNote
from qtool.report.html.report import to_html
from qtool.report.model import Explained, Report
from tests.report.made import ANY_REPORT, BARE, FULL, GATED, TEXTS, named
from tests.tiers import examples

_ASKS = {"src", "href", "action", "data", "poster", "srcset"}


class Parsed(HTMLParser):
    """The tags of a page with their attributes, its text, and what is in script and style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.code: dict[str, str] = {}
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.code[self._inside] = data
        else:
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def rows(self) -> int:
        return sum(tag == "tr" for tag, _ in self.tags)


@cache
def full_page() -> str:
    return to_html(replace(FULL, arguments=("qtool", "quantize", "my model.onnx")))


def test_the_policy_allows_its_own_code_and_nothing_else() -> None:
    page = Parsed(full_page())
    (policy,) = (a["content"] or "" for tag, a in page.tags if a.get("http-equiv"))
    digests = {
        kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in page.code.items()
    }
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for _, attributes in page.tags:
        assert not any(key == "style" or key.startswith("on") for key in attributes), "the policy forbids it"
        requests = [value or "" for key, value in attributes.items() if key in _ASKS]
        assert all(value.startswith(("#", "data:image/")) for value in requests)
    assert "url(" not in page.code["style"]


def page_of(name: str) -> str:
    """A page with a name wherever one can be; charts cost time, and one of them has names."""
    return to_html(replace(named(name), race=None, regions=(), trials=()))


@given(TEXTS)
@example("<script>alert(1)</script>")
@example("</style><img src=x onerror=alert(1)>")
@example('" onfocus="alert(1)')
@example("{{ 7 * 7 }}")
@settings(max_examples=examples(50), deadline=None)
def test_a_name_stays_text(text: str) -> None:
    document = page_of(f"n{text}")
    page, tame = Parsed(document), Parsed(page_of("name"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in tame.tags]
    assert printable(f"n{text}") in page.texts
    assert all(c == "\n" or c.isprintable() for c in document)


def test_it_shows_what_was_measured() -> None:
    text = "".join(Parsed(full_page()).texts)
    for shown in (
        "times as fast", "Pareto front", "gptq", "+0.5", "no memory", "dw1", "beware", "isolated", "8.2 us faster",
        "qtool quantize 'my model.onnx'", "accuracy<0.9", "1.0000 → 0.5000",
    ):  # fmt: skip
        assert shown in text, shown
    assert "f1" in to_html(GATED)
    assert Parsed(to_html(BARE)).rows() == 0


def test_a_model_of_500_nodes_is_small() -> None:
    names = [f"/encoder/layer.{i}/attention/self/query/MatMul" for i in range(500)]
    why = "not faster in int8 on this machine: 104.1 us float, 110.1 us int8"
    big = replace(
        FULL,
        race=None,
        trials=(),
        nodes=tuple(Explained(name, "MatMul", "float", why) for name in names),
        regions=tuple(RegionNote((name,), 104.1, 110.1, 20.0 + i / 9, True, why, ("MatMul",)) for i, name in enumerate(names)),
    )  # fmt: skip
    page = to_html(big)
    assert all(name in page for name in names)
    assert len(page.encode()) < 1_500_000


@pytest.mark.nightly
@given(ANY_REPORT)
@settings(max_examples=20, deadline=None)
def test_any_report_has_a_page(report: Report) -> None:
    assert to_html(report) == to_html(report)
    to_html(report).encode()


def test_5_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(EnvironmentFailure, match="jinja2") as caught:
        to_html(BARE)
    assert re.search(r"pip install 'jinja2.*matplotlib", caught.value.hint)
