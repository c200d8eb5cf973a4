"""A plan as JSON: it comes back as it was, and damage is the user's to mend, not ours to crash on."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtool.errors import UsageError
from qtool.plan.model import Plan, Scaled, Site
from qtool.plan.serial import digest, from_json, to_json
from tests.plan.flow import candidate, drafted
from tests.rewrite.zoo import CASES
from tests.tiers import examples


def as_data(site: Site) -> tuple[Any, ...]:
    """A site with its arrays as bytes, so that == means to the bit."""
    arrays = [] if site.qparams is None else [site.qparams.scale, site.qparams.zero_point]
    if site.integers is not None:
        arrays.append(site.integers)
    plain = {k: v for k, v in vars(site).items() if k not in ("qparams", "integers")}
    return plain, tuple((a.dtype, a.shape, a.tobytes()) for a in arrays)


def same(a: Plan, b: Plan) -> bool:
    sites = [as_data(s) for s in a.sites] == [as_data(s) for s in b.sites]
    rest = [{k: v for k, v in vars(p).items() if k != "sites"} for p in (a, b)]
    return sites and rest[0] == rest[1] and list(a.forms) == list(b.forms)


def test_a_draft_without_scales_comes_back_too() -> None:
    row = CASES["residual"]
    plan = drafted(row.build())
    assert same(plan, from_json(to_json(plan), "plan.json"))
    assert not from_json(to_json(plan), "plan.json").resolved


def test_different_plans_have_different_digests() -> None:
    row = CASES["residual"]
    plan = candidate(row.build(), row.samples()).plan
    other = candidate(row.build(), row.samples(), exclude=["Conv_y"]).plan
    assert digest(plan) != digest(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"plan"',
        "{}",
        '{"schema": "qtool.plan/999"}',
        '{"schema": "qtool.plan/1"}',
        "\x00",
    ],
)
def test_a_file_that_is_not_a_plan_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"plan\.json"):
        from_json(text, "plan.json")


def _document() -> dict[str, Any]:
    row = CASES["conv-bn-relu6"]
    document: dict[str, Any] = json.loads(to_json(candidate(row.build(), row.samples()).plan))
    return document


DOCUMENT = _document()
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none()), max_size=3),
    st.dictionaries(
        st.sampled_from(["shape", "base64", "values", "dtype"]),
        st.one_of(st.text(max_size=5), st.integers()),
        max_size=3,
    ),
)


@settings(max_examples=examples(100), deadline=None)
@given(st.data())
def test_a_damaged_plan_is_read_or_refused_as_usage(data: st.DataObject) -> None:
    """Any field of any site replaced by anything: never another error."""
    document = copy.deepcopy(DOCUMENT)
    place = data.draw(st.sampled_from(["top", "site", "skip"]))
    if place == "top":
        document[data.draw(st.sampled_from(sorted(document)))] = data.draw(JUNK)
    else:
        chosen = data.draw(st.sampled_from(document[f"{place}s"]))
        key = data.draw(st.sampled_from(sorted(chosen)))
        if data.draw(st.booleans()):
            chosen[key] = data.draw(JUNK)
        else:
            del chosen[key]
    try:
        from_json(json.dumps(document), "plan.json")
    except UsageError as error:
        assert "plan.json" in error.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spec", []),
        ("scale_from", ["x"]),
        ("spec", {"qtype": "int8", "granularity": {"kind": "PerChannel"}, "symmetric": True}),
        ("integers", {"dtype": "int64", "values": [1]}),
        ("bounds", ["a", "b"]),
        ("kind", "other"),
        ("uses", [["n"]]),
    ],
    ids=str,
)
def test_an_unknown_field_is_a_usage_error(key: str, value: object) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["sites"][0][key] = value
    with pytest.raises(UsageError, match="damaged"):
        from_json(json.dumps(document), "plan.json")


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), [], [0.1, 0.2, 0.3]])
def test_a_scale_that_can_t_be_is_refused(scale: object) -> None:
    document = copy.deepcopy(DOCUMENT)
    site = next(s for s in document["sites"] if s["kind"] == "activation")
    site["qparams"]["scale"]["values"] = scale
    with pytest.raises(UsageError):
        from_json(json.dumps(document), "plan.json")


OFFSETS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40).map(tuple)
FACTORS = st.lists(st.integers(-24, 24).map(lambda n: 2.0**n), max_size=40).map(tuple)


@settings(max_examples=examples(25), deadline=None)
@given(
    st.dictionaries(st.text(max_size=5), OFFSETS, max_size=3),
    st.dictionaries(
        st.text(max_size=5),
        st.lists(st.builds(Scaled, st.integers(-4, 4), FACTORS), max_size=3).map(tuple),
        max_size=3,
    ),
)
def test_corrections_and_factors_come_back_to_the_bit(
    corrections: dict[str, tuple[float, ...]], scaled: dict[str, tuple[Scaled, ...]]
) -> None:
    plan = replace(from_json(json.dumps(DOCUMENT), "plan.json"), corrections=corrections, scaled=scaled)
    back = from_json(to_json(plan), "plan.json")
    assert back.corrections == corrections and back.scaled == scaled
    assert list(back.corrections) == list(corrections), "in their order"
    assert to_json(back) == to_json(plan) and digest(back) == digest(plan)


@pytest.mark.parametrize("key", ["corrections", "scaled"])
def test_they_are_part_of_the_digest(key: str) -> None:
    plan = from_json(json.dumps(DOCUMENT), "plan.json")
    made: dict[str, Any] = {"corrections": {"b": (1.0,)}, "scaled": {"b": (Scaled(0, (2.0,)),)}}
    assert digest(replace(plan, **{key: made[key]})) != digest(plan)
