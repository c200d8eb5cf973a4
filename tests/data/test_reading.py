"""What a user says of their samples: what was said, and which kinds know what to do with it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from qtool.cli.sources import NAMES
from qtool.data.memory import InMemory
from qtool.data.reading import Reading
from qtool.data.samples import Source, Traits, check_used
from qtool.errors import UsageError
from qtool.tables.sources import KINDS

# For each field something that it is not by itself.
SAID: dict[str, Any] = {
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


def of_kind(kind: str) -> Source:
    source = InMemory([{"x": np.zeros(1)}], 1)
    source.traits = Traits(kind)
    return source


def test_every_field_is_tried_here_and_is_an_option() -> None:
    names = [field.name for field in fields(Reading)]
    assert list(SAID) == names
    assert set(NAMES) == set(names)


@pytest.mark.parametrize("name", SAID)
def test_what_was_said_is_known(name: str) -> None:
    assert Reading().given == []
    assert Reading(**{name: SAID[name]}).given == [name]


OF_SOME = sorted(set().union(*(kind.options for kind in KINDS.values())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAID)
def test_an_option_is_for_every_kind_or_for_those_of_its_table(kind: str, name: str) -> None:
    reading = Reading(**{name: SAID[name]})
    if name not in OF_SOME or name in KINDS[kind].options:
        check_used(reading, [of_kind(kind)])
        return
    with pytest.raises(UsageError) as caught:
        check_used(reading, [of_kind(kind)])
    assert f"--{name.replace('_', '-')} is for samples of the kind" in caught.value.message
    assert caught.value.message.endswith(f"the samples here are {kind}")


@pytest.mark.parametrize("name", OF_SOME)
def test_one_source_that_knows_the_option_is_enough(name: str) -> None:
    taker = next(kind.name for kind in KINDS.values() if name in kind.options)
    check_used(Reading(**{name: SAID[name]}), [of_kind("npz"), of_kind(taker)])


def test_without_samples_nothing_reads_them() -> None:
    with pytest.raises(UsageError, match="there are none here"):
        check_used(Reading(rate=8000), [])
