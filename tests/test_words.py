"""The word checker finds what it is to find, and nothing in plain English."""

from __future__ import annotations

import pytest

from tests.words import check_python, check_text


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("found = 1", "found"),
        ("def f(known): ...", "known"),
        ("class Reach: ...", "Reach"),
        ("def is_unfit(): ...", "is_unfit"),
        ('def f():\n    """What reads a value."""', "What .."),
        ('MESSAGE = f"as fast as {1}, as\\n far as"', "as far as"),
        ('MESSAGE = f"{speed:.2f}x of {name}"', "x of"),
        ("# of two parts\n# nobody reads this one\nx = 1", "nobody"),
    ],
)
def test_it_flags(source: str, word: str) -> None:
    assert [name for _, name, _ in check_python(source)] == [word]


@pytest.mark.parametrize(
    "source",
    [
        "from hypothesis import given",
        "known_shapes = reach = 1",
        'def f():\n    """Return whether a value has no known shape."""',
        'MESSAGE = "1.19x as fast as float; int8 is known to be told apart"',
    ],
)
def test_it_leaves_plain_english(source: str) -> None:
    assert list(check_python(source)) == []


def test_findings_have_line_numbers() -> None:
    assert [line for line, *_ in check_text("a\nb\n1.2x of c", 5)] == [7]
