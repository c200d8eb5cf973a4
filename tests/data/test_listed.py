"""A single string where a list is expected is a list of one, in every public class of options."""

from __future__ import annotations

from dataclasses import fields

import pytest

import qtool
from qtool.data.listed import listed

CLASSES = [
    qtool.Options,
    qtool.Comparing,
    qtool.Calibrating,
    qtool.Benching,
    qtool.Profiling,
    qtool.Reading,
]
LISTS = [(kind, f.name) for kind in CLASSES for f in fields(kind) if isinstance(f.default, tuple)]


@pytest.mark.parametrize(("kind", "name"), LISTS, ids=[f"{k.__name__}.{n}" for k, n in LISTS])
def test_a_single_item_is_a_list_of_one(kind: type, name: str) -> None:
    item = 0.5 if name in ("mean", "std") else "op:Conv"
    assert getattr(kind(**{name: item}), name) == (item,)
    assert getattr(kind(**{name: [item, item]}), name) == [item, item]
    assert getattr(kind(), name) == ()


def test_every_list_of_strings_is_one_of_them() -> None:
    """A list without a default of its own would be passed over."""
    typed = {
        (k, f.name)
        for k in CLASSES
        for f in fields(k)
        if "Sequence[" in str(f.type) or "tuple[" in str(f.type)
    }
    assert typed - {(qtool.Reading, "shape")} == set(LISTS)
    assert {"exclude", "include", "sets", "explain", "tasks", "fail_if", "input_range"} <= {
        n for _, n in LISTS
    }


def test_a_replaced_value_goes_by_the_same_rule() -> None:
    from dataclasses import replace

    assert replace(qtool.Options(), exclude="head").exclude == ("head",)


def test_listed() -> None:
    assert listed("ab") == ("ab",)
    assert listed(["ab"]) == ["ab"]
    assert listed(()) == ()


def test_a_gate_in_one_string_is_one_gate() -> None:
    with pytest.raises(qtool.UsageError, match="sqnr20"):
        qtool.compare("no.onnx", "no.onnx", "none", qtool.Comparing(fail_if="sqnr20"))
