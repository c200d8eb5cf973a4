"""Texts as samples: token ids, masks and other inputs; lines that are no text are refused by number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Replace

from qtool.data import texts, tokenizer
from qtool.data.model_inputs import Axis, ModelInput
from qtool.data.open import open_source
from qtool.data.reading import Reading
from qtool.data.samples import Sample, Samples
from qtool.errors import DataError, QtoolError, UsageError
from tests.data.tokenizers import save, small

THE_CAT = [1, 3, 4, 2]
OPEN = ("batch", "seq")


def model_inputs(shape: tuple[Axis, ...] | None = OPEN, /, **dtypes: str) -> dict[str, ModelInput]:
    return {
        name: ModelInput(name, shape, dtype) for name, dtype in (dtypes or {"input_ids": "int64"}).items()
    }


def opened(
    folder: Path,
    wanted: dict[str, ModelInput],
    reading: Reading | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    beside: bool = True,
) -> Samples:
    """The texts of a folder, with a tokenizer beside the model."""
    model = save(folder / "model", tokenizer) if beside else folder
    return open_source(folder / "d", wanted, reading or Reading(), model=model)


def write(folder: Path, content: str | bytes, name: str = "a.txt") -> Path:
    (folder / "d").mkdir(exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    (folder / "d" / name).write_bytes(data)
    return folder


def first(
    folder: Path, wanted: dict[str, ModelInput], reading: Reading | None = None, **more: Any
) -> dict[str, Any]:
    sample = next(iter(opened(folder, wanted, reading, **more).read()))
    return {name: np.asarray(held).tolist() for name, held in sample.inputs.items()}


def refused(act: Callable[[], object]) -> QtoolError:
    with pytest.raises(QtoolError) as caught:
        act()
    assert "\n" not in caught.value.message
    return caught.value


def all_of(source: Samples) -> list[Sample]:
    return list(source.read())


# Lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("the cat\nsat\n", [1, 2]),
        ("the cat\n\n  \t\nsat", [1, 4]),
        ("\n\nthe cat", [3]),
        ("the cat\r\n\r\nsat\r\n", [1, 3]),
        ("\ufeffthe cat\nsat", [1, 2]),
        ("the\x00cat\nmat", [1, 2]),
        ("größe\n層層", [1, 2]),
    ],
    ids=repr,
)
def test_a_text_is_a_line_that_is_not_blank(tmp_path: Path, content: str, lines: list[int]) -> None:
    source = opened(write(tmp_path, content), model_inputs())
    assert [s.name for s in source.read()] == [f"a.txt:{n}" for n in lines]
    assert len(source) == len(lines)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert first(write(tmp_path, "\ufeffthe cat"), model_inputs())["input_ids"] == [THE_CAT]


@pytest.mark.parametrize(
    "line",
    ['{"text": "the cat"}', '{"text": "the cat", "title": "sat"}', '{"sentence": "the cat", "label": 3}', '{"text":"th\\u0065 cat"}'],
    ids=str,
)  # fmt: skip
def test_of_json_lines_the_text_counts(tmp_path: Path, line: str) -> None:
    assert first(write(tmp_path, line, "a.jsonl"), model_inputs())["input_ids"] == [THE_CAT]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('{"a": "the", "b": "cat"}', "no field 'text' (it has: a, b)"),
        ('{"label": 3}', "no field 'text' (it has: label)"),
        ("{}", "it has: nothing"),
        ('["the cat"]', "no JSON object"),
        ("the cat", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "\\ud800"}', "can't be tokenized"),
    ],
    ids=lambda v: v[:30],
)
def test_a_line_without_a_text_is_refused_by_its_number(tmp_path: Path, line: str, word: str) -> None:
    write(tmp_path, f'{{"text": "sat"}}\n{line}\n', "a.jsonl")
    error = refused(lambda: all_of(opened(tmp_path, model_inputs())))
    assert isinstance(error, DataError)
    assert "a.jsonl:2: " in error.message
    assert word in error.message


def test_files_come_one_after_another(tmp_path: Path) -> None:
    write(tmp_path, "the\ncat", "2.txt")
    write(tmp_path, "sat", "10.txt")
    write(tmp_path, '{"text": "mat"}', "1.jsonl")
    source = opened(tmp_path, model_inputs())
    named = ["1.jsonl:1", "2.txt:1", "2.txt:2", "10.txt:1"]
    assert [s.name for s in source.read()] == named
    assert [s.name for s in source.read({0, 3})] == [named[0], named[3]]
    assert [s.name for s in source.read({2})] == [named[2]]


def test_a_single_file_is_a_source(tmp_path: Path) -> None:
    write(tmp_path, "the cat", "b.txt")
    model = save(tmp_path / "model")
    (sample,) = open_source(tmp_path / "d" / "b.txt", model_inputs(), model=model).read()
    assert sample.name == "b.txt:1"


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "blank"), (b"\n \n", "blank"), (b"the\n\xff\xfe\n", "a.txt:2: not UTF-8"), ("the".encode("utf-16"), "not UTF-8")],
    ids=["empty", "blank", "latin-1", "utf-16"],
)  # fmt: skip
def test_binary_files_are_refused(tmp_path: Path, content: bytes, word: str) -> None:
    error = refused(lambda: all_of(opened(write(tmp_path, content), model_inputs())))
    assert isinstance(error, DataError)
    assert "a.txt" in error.message
    assert word in error.message


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LINE_BYTES", 100)
    error = refused(lambda: opened(write(tmp_path, "the\n" + "cat " * 26), model_inputs()))
    assert "a.txt:2: a line of more than 100 bytes" in error.message


def test_a_file_that_changed_is_refused(tmp_path: Path) -> None:
    source = opened(write(tmp_path, "the\ncat"), model_inputs())
    write(tmp_path, "the big cat\nsat")
    assert "changed" in refused(lambda: all_of(source)).message


# Inputs


def test_each_input_has_the_role_of_its_name(tmp_path: Path) -> None:
    wanted = model_inputs(
        input_ids="int64", attention_mask="int64", token_type_ids="int64", position_ids="int64"
    )
    result = first(write(tmp_path, "the cat"), wanted)
    assert result == {"input_ids": [THE_CAT], "attention_mask": [[1] * 4], "token_type_ids": [[0] * 4], "position_ids": [[0, 1, 2, 3]]}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["input_ids", "attention_mask"], "input_ids"),
        (["input_ids:0"], "input_ids:0"),
        (["INPUT_IDS"], "INPUT_IDS"),
        (["tokens"], "tokens"),
        (["ids", "mask"], "ids"),
        (["input"], "input"),
        (["x"], "x"),
        (["segment_ids", "x"], "x"),
        (["input", "input_ids"], "input_ids"),
    ],
    ids=str,
)
def test_the_input_of_token_ids_is_found(tmp_path: Path, names: list[str], ids: str) -> None:
    result = first(write(tmp_path, "the cat"), model_inputs(**dict.fromkeys(names, "int64")))
    assert result[ids] == [THE_CAT]


@pytest.mark.parametrize(
    "dtypes",
    [
        {"input_ids": "int32", "attention_mask": "int32"},
        {"input_ids": "int64", "attention_mask": "float32"},
        {"input_ids": "int64", "attention_mask": "bool"},
        {"input_ids": "uint8", "attention_mask": "int8"},
    ],
    ids=str,
)
def test_types_are_the_models(tmp_path: Path, dtypes: dict[str, str]) -> None:
    (sample,) = opened(write(tmp_path, "the cat"), model_inputs(**dtypes)).read()
    assert {name: str(held.dtype) for name, held in sample.inputs.items()} == dtypes
    assert np.asarray(sample.inputs["attention_mask"]).all()


def test_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    assert first(write(tmp_path, "the cat"), model_inputs(("seq",)))["input_ids"] == THE_CAT


@pytest.mark.parametrize("shape", [None, (1, None), (1, "seq"), ("b", "s")], ids=str)
def test_dynamic_axes_have_the_length_of_the_text(tmp_path: Path, shape: tuple[Axis, ...] | None) -> None:
    source = opened(write(tmp_path, "the cat\nthe cat sat on the mat"), model_inputs(shape))
    assert [np.asarray(s.inputs["input_ids"]).shape for s in source.read()] == [(1, 4), (1, 8)]


def test_the_tokenizers_own_padding_is_switched_off(tmp_path: Path) -> None:
    padded = small()
    padded.enable_padding(length=20, pad_id=8)
    assert first(write(tmp_path, "the cat"), model_inputs(), tokenizer=padded)["input_ids"] == [THE_CAT]


@pytest.mark.parametrize(
    ("own", "option", "fixed", "length"),
    [
        (None, 0, None, 8), (5, 0, None, 5), (5, 6, None, 6), (None, 3, None, 3),
        (None, 0, 6, 6), (5, 0, 6, 6), (None, 4, 6, 6), (20, 0, 6, 6), (None, 20, 6, 6),
    ],
)  # fmt: skip
def test_long_texts_are_cut(
    tmp_path: Path, own: int | None, option: int, fixed: int | None, length: int
) -> None:
    made = small()
    if own:
        made.enable_truncation(own)
    wanted = model_inputs((1, fixed), input_ids="int64", attention_mask="int64")
    result = first(
        write(tmp_path, "the cat sat on the mat"), wanted, Reading(max_tokens=option), tokenizer=made
    )
    (ids,), (mask,) = result["input_ids"], result["attention_mask"]
    assert len(ids) == len(mask) == length
    assert sum(mask) == min(option or own or 8, fixed or 8, 8)
    assert ids[sum(mask) - 1] == 2  # what is special stays


@pytest.mark.parametrize(("side", "ids"), [("right", [*THE_CAT, 8, 8]), ("left", [8, 8, *THE_CAT])])
@pytest.mark.parametrize("word", ["[PAD]", "<pad>"])
def test_short_texts_are_padded(tmp_path: Path, word: str, side: str, ids: list[int]) -> None:
    made = small(word)
    if side == "left":
        made.enable_padding(direction="left", pad_id=8, pad_token=word)
    result = first(
        write(tmp_path, "the cat"),
        model_inputs((1, 6), input_ids="int64", attention_mask="int64"),
        tokenizer=made,
    )
    assert result["input_ids"] == [ids]
    assert result["attention_mask"] == [[int(i != 8) for i in ids]]


@pytest.mark.parametrize(
    ("wanted", "reading", "tokenizer", "word", "hint"),
    [
        (model_inputs((1, 6)), Reading(), small(""), "no token to pad with", "[PAD]"),
        (model_inputs((4, 6)), Reading(), None, "4 texts at once", "open batch"),
        (model_inputs((1, 3, 4, 4), x="float32"), Reading(), None, "no input", "input_ids"),
        (model_inputs(a="int64", b="int64"), Reading(), None, "no input", "input_ids"),
        ({}, Reading(), None, "it has none", ""),
        (model_inputs(), Reading(max_tokens=2), None, "2 tokens a text", "--max-tokens"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_a_usage_error(
    tmp_path: Path,
    wanted: dict[str, ModelInput],
    reading: Reading,
    tokenizer: Tokenizer | None,
    word: str,
    hint: str,
) -> None:
    error = refused(lambda: opened(write(tmp_path, "the cat"), wanted, reading, tokenizer))
    assert isinstance(error, UsageError)
    assert word in error.message
    assert hint in error.hint


def test_inputs_that_are_filled_are_left_alone(tmp_path: Path) -> None:
    wanted = model_inputs(input_ids="int64", token_type_ids="int64")
    result = first(write(tmp_path, "the cat"), wanted, Reading(fill={"token_type_ids": 1.0}))
    assert result["input_ids"] == [THE_CAT]
    assert np.all(result["token_type_ids"])  # of whatever length


def test_a_text_without_a_token_is_refused(tmp_path: Path) -> None:
    made = small(special=False)
    made.normalizer = Replace(Regex("[^a-z]"), "")
    error = refused(lambda: all_of(opened(write(tmp_path, "the\n?!"), model_inputs(), tokenizer=made)))
    assert "a.txt:2: it has no token" in error.message


def test_a_token_that_the_type_can_t_hold(tmp_path: Path) -> None:
    made = small()
    made.add_tokens([f"w{i}" for i in range(300)])
    error = refused(
        lambda: all_of(opened(write(tmp_path, "w299"), model_inputs(input_ids="uint8"), tokenizer=made))
    )
    assert "a.txt:1: token 308 does not fit input 'input_ids', which is uint8" in error.message


# The tokenizer


def test_a_tokenizer_can_be_named(tmp_path: Path) -> None:
    save(tmp_path / "other", name="words.json")
    reading = Reading(tokenizer=tmp_path / "other" / "words.json")
    source = opened(write(tmp_path, "the cat"), model_inputs(), reading, beside=False)
    assert np.asarray(next(iter(source.read())).inputs["input_ids"]).tolist() == [THE_CAT]
    assert "words.json" in "\n".join(source.traits.notes)


def test_a_missing_tokenizer_has_a_hint(tmp_path: Path) -> None:
    error = refused(lambda: opened(write(tmp_path, "the cat"), model_inputs(), beside=False))
    assert isinstance(error, UsageError)
    assert "--tokenizer" in error.hint
    assert "tokenizer.json" in error.hint


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"the\ncat\n", b'{"model_max_length": 512}', b"\xff\xfe\x00", b"[" * 100_000],
    ids=repr,
)
def test_a_file_that_is_not_a_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    reading = Reading(tokenizer=tmp_path / "vocab.txt")
    error = refused(lambda: opened(write(tmp_path, "the cat"), model_inputs(), reading))
    assert isinstance(error, DataError)
    assert "vocab.txt: not a tokenizer" in error.message
    assert "tokenizer.json" in error.hint


def test_a_tokenizer_that_is_missing(tmp_path: Path) -> None:
    error = refused(
        lambda: opened(write(tmp_path, "the"), model_inputs(), Reading(tokenizer=tmp_path / "none.json"))
    )
    assert isinstance(error, DataError)
    assert "none.json" in error.message


class PanicException(BaseException):
    """As the library raises it: no Exception."""


@pytest.mark.parametrize(
    ("raised", "word"), [(PanicException("index out of bounds"), "the tokenizer fails"), (Exception("odd"), "can't be tokenized")]
)  # fmt: skip
def test_a_tokenizer_that_panics_is_bad_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, word: str
) -> None:
    source = opened(write(tmp_path, "the cat"), model_inputs())

    def fail(self: object, text: str) -> None:
        raise raised

    monkeypatch.setattr(tokenizer.Tokens, "_columns", fail)
    error = refused(lambda: all_of(source))
    assert isinstance(error, DataError)
    assert "a.txt:1: " in error.message
    assert word in error.message


def test_an_interrupt_stays_one() -> None:
    with pytest.raises(KeyboardInterrupt), tokenizer.no_panic("it"):
        raise KeyboardInterrupt


def test_notes_say_how_texts_are_read(tmp_path: Path) -> None:
    wanted = model_inputs((1, 6), input_ids="int64", attention_mask="int64")
    notes = "\n".join(opened(write(tmp_path, "the cat"), wanted).traits.notes)
    for word in (
        "tokenizer.json",
        "'input_ids': token ids",
        "'attention_mask'",
        "at most 6 tokens",
        "padded to 6 with token 8",
    ):
        assert word in notes
