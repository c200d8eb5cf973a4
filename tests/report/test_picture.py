"""The plans that were raced, as a plot in characters and as SVG."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.placement.trials import Trial
from qtool.report.model import Report
from qtool.report.picture import number, picture, ticks
from qtool.report.plot import ASCII, UNICODE, plot
from qtool.report.svg import to_svg
from tests.report.made import BARE, FULL, TEXTS, TUNED, anything

SVG = "{http://www.w3.org/2000/svg}"
RACED = st.lists(anything(Trial), max_size=12).map(tuple)


def report(trials: tuple[Trial, ...], weights_only: bool = False) -> Report:
    chosen = trials[0].name if trials else ""
    return replace(FULL, trials=trials, chosen=chosen, weights_only=weights_only)


@given(RACED, st.booleans())
@settings(max_examples=150, deadline=None)
def test_svg_is_xml_with_a_dot_for_each_trial(trials: tuple[Trial, ...], weights_only: bool) -> None:
    made = report(trials, weights_only)
    root = ElementTree.fromstring(to_svg(made))
    dots = [c for c in root.iter(f"{SVG}circle") if "dot" in c.get("class", "").split()]
    assert len(dots) == len(trials)
    wide, high = (float(root.get(k, "0")) for k in ("width", "height"))
    for dot in dots:
        assert 0 <= float(dot.get("cx", "-1")) <= wide
        assert 0 <= float(dot.get("cy", "-1")) <= high
        assert dot.find(f"{SVG}title") is not None
    dominated = sum("dominated" in d.get("class", "").split() for d in dots)
    assert dominated <= len(trials) - bool(trials)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_no_name_is_more_than_text(name: str) -> None:
    made = replace(report((Trial(name, 30.0, 29.0, 1.0, 1.0, None, 1),)), fp32=replace(FULL.fp32, path=name))
    tame = replace(
        report((Trial("name", 30.0, 29.0, 1.0, 1.0, None, 1),)), fp32=replace(FULL.fp32, path="name")
    )
    kinds = [[e.tag for e in ElementTree.fromstring(to_svg(r)).iter()] for r in (made, tame)]
    # A long name may have no room beside its dot; nothing is ever added.
    assert not set(kinds[0]) - set(kinds[1])
    assert len(kinds[0]) in (len(kinds[1]), len(kinds[1]) - 1)


def test_svg_has_no_script_and_loads_nothing() -> None:
    text = to_svg(TUNED)
    assert not re.search(r"<script|href|url\(|@import|\bon\w+=", text)
    assert text.count("http") == 1, "its namespace"
    assert "times FP32" in text
    assert "SQNR (dB)" in text


@pytest.mark.parametrize("signs", [UNICODE, ASCII], ids=["unicode", "ascii"])
@given(trials=RACED, width=st.integers(0, 200))
@settings(max_examples=100, deadline=None)
def test_a_plot_fits_and_has_the_chosen_dot(signs: str, trials: tuple[Trial, ...], width: int) -> None:
    lines = plot(picture(report(trials)), width, signs)
    assert all(len(line) <= max(width, 0) for line in lines)
    if lines:
        assert trials
        assert signs[0] in "".join(lines[1:-3])
        foreign = {c for t in trials for c in t.name}
        assert signs is UNICODE or all(c.isascii() or c in foreign for c in "".join(lines))


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
@settings(max_examples=300, deadline=None)
def test_ticks_are_few_and_within(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    assert len(found) <= 7
    assert all(low - 1e-6 * span <= t <= high + 1e-6 * span for t in found)


def test_numbers_tell_ticks_apart() -> None:
    for made in (TUNED, FULL):
        for axis in (picture(made).x, picture(made).y):
            shown = [number(t, axis) for t in axis.ticks]
            assert len({*shown}) == len(shown)
            assert [float(s) for s in shown] == pytest.approx(list(axis.ticks))


def test_of_nothing_there_is_a_picture_all_the_same() -> None:
    ElementTree.fromstring(to_svg(BARE))
    assert plot(picture(BARE), 80) == []


def test_predicted_speeds_are_said_to_be() -> None:
    assert "predicted" in picture(TUNED).x.label
    assert "predicted" not in picture(FULL).x.label
    assert "MB" in picture(replace(FULL, weights_only=True)).x.label
