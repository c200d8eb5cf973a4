"""The report as JUnit's XML."""

from __future__ import annotations

from xml.etree import ElementTree

from hypothesis import given, settings

from qtool.errors import printable
from qtool.report.junit import to_junit
from tests.report.made import BARE, FULL, GATED, SCORES, SYNTHETIC, TEXTS, named
from tests.tiers import examples


def test_a_gate_is_a_test_case() -> None:
    root = ElementTree.fromstring(to_junit(GATED))
    (suite,) = root
    assert (root.tag, suite.tag) == ("testsuites", "testsuite")
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("5", "4", "0")
    cases = suite.findall("testcase")
    assert [c.get("name") for c in cases] == [g.gate.text for g in GATED.gates]
    assert {c.get("classname") for c in cases} == {"qtool.compare"}
    assert [c.find("failure") is None for c in cases] == [True, False, False, False, False]


def test_a_failure_has_value_threshold_and_samples() -> None:
    failures = list(ElementTree.fromstring(to_junit(GATED)).iter("failure"))
    assert [f.get("type") for f in failures] == ["gate", "inconclusive", "gate", "gate"]
    assert failures[0].text == "value: 28\nfails: < 30\nsamples: 200"
    assert failures[1].text is not None
    assert failures[1].text.endswith("95% interval: {:.6g} to {:.6g}".format(*SCORES.top1_interval))
    assert [f.get("message") for f in failures] == [g.why for g in GATED.failed]
    (made_up,) = ElementTree.fromstring(to_junit(SYNTHETIC)).iter("failure")
    assert made_up.get("type") == "synthetic"


def test_measurements_are_properties() -> None:
    properties = {
        p.get("name"): p.get("value") for p in ElementTree.fromstring(to_junit(FULL)).iter("property")
    }
    assert properties["size"] == "0.3"
    assert properties["speedup"] == "2"
    assert properties["accuracy_drop"] == "0.5"
    assert properties["sqnr"] == "inf"
    assert {p.get("name"): p.get("value") for p in ElementTree.fromstring(to_junit(GATED)).iter("property")}[
        "f1"
    ] == "0.875"


def test_a_report_without_gates_is_a_suite_without_cases() -> None:
    (suite,) = ElementTree.fromstring(to_junit(BARE))
    assert suite.findall("testcase") == []
    assert suite.get("tests") == "0"


@given(TEXTS)
@settings(max_examples=examples(200), deadline=None)
def test_a_name_stays_in_its_attribute(text: str) -> None:
    root = ElementTree.fromstring(to_junit(named(text)))
    tame = ElementTree.fromstring(to_junit(named("name")))
    assert [e.tag for e in root.iter()] == [e.tag for e in tame.iter()]
    assert {c.get("name") for c in root.iter("testcase")} == {printable(text)}
