"""The candidates of a run as SVG."""

from __future__ import annotations

import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.errors import EnvironmentFailure
from qtool.placement.trials import Trial
from qtool.report.html.charts import to_svg
from tests.report.made import BARE, FULL, TEXTS, TUNED, anything
from tests.tiers import examples

SVG = "{http://www.w3.org/2000/svg}"


@given(st.lists(anything(Trial), max_size=6).map(tuple), st.booleans(), TEXTS)
@settings(max_examples=examples(8), deadline=None)
def test_any_candidates_of_any_name_make_a_picture(
    trials: tuple[Trial, ...], weights_only: bool, name: str
) -> None:
    trials = tuple(replace(trial, name=f"{name}{i}") for i, trial in enumerate(trials))
    report = replace(FULL, trials=trials, chosen="", weights_only=weights_only)
    kinds = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(to_svg(report)).iter()}
    assert "text" in kinds and not kinds & {"script", "image", "a"}


def test_the_picture_names_the_front_and_is_the_same_again() -> None:
    text = to_svg(TUNED)
    assert to_svg(TUNED) == text
    assert all(name in text for name in TUNED.front)
    assert "speed (times FP32, predicted)" in text
    assert "size (MB)" in to_svg(replace(TUNED, weights_only=True))
    ElementTree.fromstring(to_svg(BARE))


def test_a_missing_matplotlib_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EnvironmentFailure, match="matplotlib") as caught:
        to_svg(TUNED)
    assert "pip install 'matplotlib>=3.8'" in caught.value.hint
