"""The report as Markdown: what GitHub's parser makes of it, whatever the names are."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from markdown_it import MarkdownIt
from markdown_it.token import Token

from qtool.errors import printable
from qtool.evaluate.latency import Race
from qtool.report.markdown import code, prose, to_markdown
from qtool.report.model import Timing
from tests.report.made import BARE, FULL, GATED, JUDGED, SCORES, SYNTHETIC, TEXTS, named
from tests.tiers import examples

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a document: rows of the cells' texts."""
    collected: list[list[list[str]]] = []
    for token in PARSER.parse(text):
        if token.type == "table_open":
            collected.append([])
        elif token.type == "tr_open":
            collected[-1].append([])
        elif token.type == "inline" and collected and token.level >= 4:
            collected[-1][-1].append(shown(token))
    return collected


def shown(token: Token) -> str:
    return "".join(
        t.content for t in token.children or () if t.type in ("text", "code_inline", "text_special")
    )


def kinds(text: str) -> Iterator[str]:
    """The kinds of a document's tokens, HTML tags included; code, text and `<code>` tags are left out."""
    for token in PARSER.parse(text):
        yield token.type
        for inner in token.children or ():
            if inner.type in ("code_inline", "text", "text_special") or inner.content in (
                "<code>",
                "</code>",
            ):
                continue
            yield inner.content if inner.type == "html_inline" else inner.type


def test_the_verdict_comes_first_then_the_gates() -> None:
    lines = to_markdown(GATED).splitlines()
    assert lines[0] == "## ❌ qtool compare: 4 of 5 gates failed"
    assert lines[2].startswith(
        "3.33x smaller, 28.0 dB (4% error), 99.5% of sequences unchanged, 4 of 5 gates"
    )
    assert lines[4] == "`m.onnx` → `q.onnx`"
    gates = tables(to_markdown(GATED))[0]
    assert gates[0] == ["fails if", "value", "threshold", "samples", "verdict"]
    assert gates[1:] == [
        ["sqnr<20", "28", "20", "200", "✅ held"],
        ["sqnr<30", "28", "30", "200", "❌ failed"],
        ["scores:top1<0.98", "0.99 (0.9643 to 0.9973)", "0.98", "200", "❌ inconclusive"],
        ["f1<0.9", "0.875", "0.9", "200", "❌ failed"],
        ["speedup<1", "nothing to judge", "1", "200", "❌ failed"],
    ]


def test_measurements_follow_the_verdict() -> None:
    _, outputs = tables(to_markdown(GATED))
    first = dict(zip(outputs[0], outputs[1], strict=True))
    assert first["output"] == "scores"
    assert (first["worst sample dB"], first["worst sample"]) == ("22.0", "7.npz")
    assert first["top-1"] == "0.9900 (0.964-0.997)"
    assert "differ" not in first, "no output of integers"
    text = to_markdown(GATED)
    assert "**f1:** 0.875" in text
    assert text.index("fails if") < text.index("f1:") < text.index("SQNR dB") < text.index("⚠️")


def test_coverage_and_figures_of_quantize() -> None:
    text = to_markdown(FULL)
    coverage = tables(text)[2]
    assert coverage[0] == ["op", "int8", "float, stored int8", "int8 at run time", "float", "why in float"]
    assert coverage[1][:5] == ["Conv", "3", "1", "", "1"]
    assert "3.33x smaller" in text
    assert "2.00x as fast as the original" in text
    assert "preparation alone: 1.33x as fast as the original (95%: 1.33-1.33)" in text
    assert "1.0000 → 0.5000 (4 labels, of 4 of 4 samples)" in text


def test_an_empty_report_is_short() -> None:
    assert to_markdown(BARE).startswith("## ⚪ qtool compare: no gates\n")
    assert tables(to_markdown(BARE)) == []


def test_random_data_is_marked() -> None:
    assert "❌ random data" in to_markdown(SYNTHETIC)


def test_many_outputs_are_cut_and_counted() -> None:
    outputs = tuple(replace(SCORES, name=f"y{i}") for i in range(60))
    text = to_markdown(replace(GATED, comparison=replace(JUDGED, outputs=outputs)))
    assert len(tables(text)[1]) == 51
    assert "and 10 more" in text


@given(TEXTS)
@example("a | b")
@example("a\\|b\\")
@example("a`b``c")
@example("<script>`")
@example("@everyone #1 www.a.com")
@settings(max_examples=examples(300), deadline=None)
def test_a_name_stays_in_its_cell(text: str) -> None:
    """The document is made of the same parts whatever a name is, and shows the name as it is."""
    document, tame = to_markdown(named(f"n{text}")), to_markdown(named("name"))
    assert list(kinds(document)) == list(kinds(tame))
    gates, outputs, _, trials, explained, audit = tables(document)
    name = printable(f"n{text}", 120)
    assert trials[1][0] == " ".join(name.split()) or trials[2][0] == " ".join(name.split())
    assert {row[0] for row in (*gates[1:], *outputs[1:], *explained[1:], *audit[1:])} == {
        " ".join(name.split())
    }


@given(TEXTS)
@settings(max_examples=examples(300), deadline=None)
def test_no_name_is_a_mention_a_link_or_a_tag(text: str) -> None:
    page = PARSER.render(to_markdown(named(f"n{text}")))
    outside = html.unescape(re.sub("<code>.*?</code>", "", page))
    assert not re.search(r"@[a-zA-Z\d]|#\d", outside)
    assert not re.search(r"<(?!/?(h[23]|p|table|thead|tbody|tr|t[hd]|ul|li|strong|code|sub)\b)[a-z]", page)


@pytest.mark.parametrize(
    "text", ["http://a.b", "www.a.com", "a@b.cd", "*a*", "_a_", "~~a~~", "$a$", "[a](b)", "a\\"]
)
def test_a_sentence_is_only_that(text: str) -> None:
    """No syntax that GitHub's parser adds to CommonMark can begin in a sentence."""
    assert not re.search(r"://|www\.|[@*_~$\[\]<>`|\\]", prose(text))
    assert shown(PARSER.parse(prose(text))[1]).replace("\u200b", "") == text


@pytest.mark.parametrize("text", ["12.5 dB is below 20.", "a: b (c), d/e", "33% of x"])
def test_a_plain_sentence_reads_as_it_is(text: str) -> None:
    assert prose(text) == text


def test_a_plain_name_reads_as_it_is() -> None:
    assert code("/model/layer.1/conv_2:0 <x> *") == "`/model/layer.1/conv_2:0 <x> *`"


def test_a_gain_of_preparation_within_noise_is_none() -> None:
    race = Race(1, {"original": (1.0, 1.1, 0.9), "prepared": (1.0, 1.0, 1.0), "quantized": (1.0, 1.0, 1.0)})
    text = to_markdown(replace(FULL, race=Timing.of(race)))
    assert (
        "preparation alone: 1.00x as fast as the original (95%: 0.90-1.10, no measurable difference)" in text
    )
