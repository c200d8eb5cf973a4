"""`Reading`: which kinds of samples use which option; a single item where a list is expected."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

import qtool
from qtool.cli.source_options import NAMES
from qtool.data.iterables import InMemory
from qtool.data.reading import Reading
from qtool.data.samples import Samples, Traits, check_used
from qtool.errors import UsageError
from qtool.tables.sources import KINDS

# A value for each field that differs from its default.
CHANGED: dict[str, Any] = {
    "samples": 3,
    "seed": 1,
    "split_batch": True,
    "shape": {"x": (1,)},
    "rename": {"a": "b"},
    "fill": {"x": 0.0},
    "layout": "nhwc",
    "preset": "unit",
    "mean": (1.0,),
    "std": (2.0,),
    "resize": "stretch",
    "channels": "bgr",
    "tokenizer": "t.json",
    "max_tokens": 8,
    "columns": ("a",),
    "rate": 16000,
}


def of_kind(kind: str) -> Samples:
    source = InMemory([{"x": np.zeros(1)}])
    source.traits = Traits(kind)
    return source


def test_every_field_is_an_option() -> None:
    names = [field.name for field in fields(Reading)]
    assert list(CHANGED) == names
    assert set(NAMES) == set(names)


def test_changed_fields_are_those_that_differ_from_the_default() -> None:
    assert Reading().changed == []
    assert Reading(**CHANGED).changed == list(CHANGED)


OF_SOME = sorted(set().union(*(kind.options for kind in KINDS.values())))


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_is_for_every_kind_or_for_those_of_its_table(kind: str) -> None:
    for name, value in CHANGED.items():
        reading = Reading(**{name: value})
        if name not in OF_SOME or name in KINDS[kind].options:
            check_used(reading, [of_kind(kind)])
            continue
        with pytest.raises(UsageError, match=f"{name} is for samples of the kind") as caught:
            check_used(reading, [of_kind(kind)])
        assert caught.value.message.endswith(f"the samples here are {kind}")


def test_one_source_that_uses_the_option_is_enough() -> None:
    check_used(Reading(rate=8000), [of_kind("npz"), of_kind("audio")])


def test_an_option_without_samples_is_refused() -> None:
    with pytest.raises(UsageError, match="there are none here"):
        check_used(Reading(rate=8000), [])


CLASSES = [qtool.Options, qtool.Comparing, qtool.Calibrating, qtool.Benching, qtool.Profiling, qtool.Reading]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_single_item_is_a_list_of_one_in_every_class_of_options(kind: type) -> None:
    lists = {f.name for f in fields(kind) if isinstance(f.default, tuple)}
    typed = {f.name for f in fields(kind) if "Sequence[" in str(f.type) or "tuple[" in str(f.type)}
    assert typed - {"shape"} == lists, "a list without a default tuple would be passed over"
    for name in lists:
        item = 0.5 if name in ("mean", "std") else "op:Conv"
        assert getattr(kind(**{name: item}), name) == (item,)
        assert getattr(kind(**{name: [item, item]}), name) == [item, item]


def test_a_gate_in_one_string_is_one_gate() -> None:
    assert replace(qtool.Options(), exclude="head").exclude == ("head",)
    with pytest.raises(qtool.UsageError, match="sqnr20"):
        qtool.compare("no.onnx", "no.onnx", "none", qtool.Comparing(fail_if="sqnr20"))
