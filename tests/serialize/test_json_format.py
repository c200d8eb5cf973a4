"""The JSON codec on a dataclass with a field of every kind: exact both ways, and nothing damaged passes."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qtool.errors import UsageError
from qtool.serialize.json_format import JsonFormat
from qtool.tables.qtypes import INT8, PER_TENSOR, Granularity, PerBlock, QType


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Part:
    colours: tuple[Colour, ...] = ()
    granularity: Granularity = PER_TENSOR
    qtype: QType = INT8


@dataclass(frozen=True)
class Document:
    name: str
    number: float = 1.5
    count: int = 3
    flag: bool = False
    pair: tuple[float, str] = (0.0, "a")
    maybe: int | None = None
    parts: Mapping[str, Part] = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    scale: NDArray[np.float32] = field(default_factory=lambda: np.zeros((), np.float32))
    integers: NDArray[np.integer] | None = None
    note: str = ""


def _positive(value: Document) -> None:
    if value.count < 0:
        raise ValueError("count is negative")


FORMAT = JsonFormat(
    Document,
    "test.document/1",
    "document",
    hint="make one",
    largest=10_000,
    levels=2,
    check=_positive,
    derived={Document: {"twice": lambda value: 2 * value.count}},
    omitted={Document: ("note",)},
)
FULL = Document(
    "a \udcff name",
    number=-math.inf,
    count=1 << 200,
    flag=True,
    pair=(math.nan, "nan"),
    maybe=7,
    parts={"p": Part((Colour.RED,), PerBlock(1, 32)), "q": Part()},
    words=frozenset({"a"}),
    scale=np.linspace(0, 1, 40, dtype=np.float32).reshape(5, 8),
    integers=np.arange(-50, 50, dtype=np.int8),
)
TEXT = FORMAT.to_json(FULL)
DOCUMENT = json.loads(FORMAT.to_json(replace(FULL, count=4)))


def test_every_kind_of_field_is_read_back_to_the_bit() -> None:
    read = FORMAT.from_json(TEXT, "f")
    assert FORMAT.to_json(read) == TEXT
    assert repr(read) == repr(FULL)
    assert read.scale.tobytes() == FULL.scale.tobytes() and read.parts["p"].qtype is INT8
    assert "note" not in DOCUMENT and DOCUMENT["number"] == "-inf" and DOCUMENT["twice"] == 8


def test_numbers_may_be_rewritten_by_other_tools() -> None:
    """jq writes 1.0 as 1."""
    one = FORMAT.to_json(Document("n", number=1.0))
    assert FORMAT.to_json(FORMAT.from_json(one.replace('"number": 1.0', '"number": 1'), "f")) == one


def test_the_digest_does_not_depend_on_the_order_of_keys() -> None:
    other = replace(FULL, parts=dict(reversed(FULL.parts.items())))
    assert FORMAT.digest(FULL) == FORMAT.digest(other) != FORMAT.digest(replace(FULL, count=1))
    assert FORMAT.digest(Document("n", number=1)) == FORMAT.digest(Document("n", number=1.0))


DAMAGE: dict[str, tuple[dict[str, Any], str]] = {
    "a number for a text": ({"name": 5}, "name: "),
    "a text for a number": ({"number": "high"}, "number: "),
    "infinity in words": ({"number": "Infinity"}, "number: "),
    "a bool for a number": ({"number": True}, "number: "),
    "a fraction for an integer": ({"count": 1.5}, "count is 1.5, expected 1"),
    "a text for an integer": ({"count": "4"}, 'count is "4", expected 4'),
    "a number for a bool": ({"flag": 1}, "flag: "),
    "null": ({"flag": None}, "flag: "),
    "a short tuple": ({"pair": [1.0]}, "pair"),
    "a text for a tuple": ({"pair": "ab"}, "pair"),
    "a wrong value inside": ({"parts": {"p": {**DOCUMENT["parts"]["q"], "colours": ["blue"]}}}, "parts['p'].colours[0]"),
    "an unknown field inside": ({"parts": {"p": {**DOCUMENT["parts"]["q"], "size": 1}}}, "(size)"),
    "a missing field inside": ({"parts": {"p": {"colours": []}}}, "parts.p.granularity is missing"),
    "an unknown type": ({"parts": {"p": {**DOCUMENT["parts"]["q"], "qtype": "int7"}}}, "parts['p'].qtype"),
    "an unknown granularity": ({"parts": {"p": {**DOCUMENT["parts"]["q"], "granularity": {"kind": "PerRow"}}}}, "parts['p'].granularity"),
    "a list for an object": ({"parts": []}, "parts"),
    "an array of another type": ({"scale": {"dtype": "int8", "values": 1}}, "scale"),
    "an array of values that do not fit": ({"integers": {"dtype": "int8", "values": [300]}}, "integers"),
    "an array of bytes that do not fit": ({"scale": {"dtype": "float32", "shape": [2], "base64": "AAAA"}}, "scale"),
    "no array": ({"scale": 1.0}, "scale"),
    "an edited derived value": ({"twice": 9}, "twice is 9, expected 8"),
    "an unknown field": ({"colour": 9}, "(colour)"),
    "a broken rule": ({"count": -1, "twice": -2}, "count is negative"),
    "a number beyond all": ({"number": 10**400}, "number"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_a_usage_error_that_names_the_file_and_the_field(name: str) -> None:
    change, place = DAMAGE[name]
    with pytest.raises(UsageError) as caught:
        FORMAT.from_json(json.dumps({**copy.deepcopy(DOCUMENT), **change}), "f.json")
    assert caught.value.message.startswith("f.json: damaged document: ")
    assert place in caught.value.message and "\n" not in caught.value.message
    assert caught.value.hint == "make one"


def test_every_field_is_required() -> None:
    for key in DOCUMENT:
        with pytest.raises(UsageError, match=r"f\.json"):
            FORMAT.from_json(json.dumps({k: v for k, v in DOCUMENT.items() if k != key}), "f.json")


def test_other_documents_are_usage_errors() -> None:
    texts = [
        "",
        "SQNR 37.6 dB",
        "[]",
        "1",
        "{}",
        '{"schema": NaN}',
        '{"schema": 1, "schema": 1}',
        "[" * 100_000,
    ]
    texts += ["1" * 10_000, '{"schema": "test.document/2"}', *(TEXT[:n] for n in range(0, len(TEXT) - 2, 97))]
    for text in texts:
        with pytest.raises(UsageError, match="f: not "):
            FORMAT.from_json(text, "f")


def test_a_file_that_can_t_be_read_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "good").write_text(TEXT, encoding="utf-8")
    assert repr(FORMAT.read(tmp_path / "good")) == repr(FULL)
    (tmp_path / "latin").write_bytes(b"\xe9")
    (tmp_path / "large").write_text(" " * 10_001)
    for path in (
        tmp_path,
        tmp_path / "none",
        tmp_path / "latin",
        tmp_path / "large",
        Path("/dev/zero"),
        Path("a\0b"),
    ):
        with pytest.raises(UsageError, match="document '"):
            FORMAT.read(path)
