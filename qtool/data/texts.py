"""Samples of texts: a line of a .txt, or an object a line of a .jsonl, tokenized for a model."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Set
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from qtool.data.files import UnchangedFiles, shown
from qtool.data.samples import Arrays, Sample, SourceSpec, Traits, by_file
from qtool.data.tokenizer import Tokens, tokens_for
from qtool.errors import DataError, printable
from qtool.runtime.heartbeat import beat

# A longer line means that the file is of another kind.
LINE_BYTES = 10 << 20
FIELD = "text"
_BOM = b"\xef\xbb\xbf"
_BEAT_EVERY = 1 << 16


def open_texts(source: SourceSpec) -> TextFiles:
    """Return the texts of a file, or of the files of a folder, as samples.

    Raises:
        UsageError: there is no tokenizer, or no input that takes tokens.
        DataError: a file is no text, or all lines are blank.
    """
    return TextFiles(source, tokens_for(source.inputs, source.reading, source.model))


@dataclass(frozen=True)
class _Index:
    """The byte at which each text of a file begins, and the number of its line."""

    name: str
    file: Path
    starts: array[int]
    lines: array[int]


class TextFiles:
    """Samples that are lines of text files. Only the places of the lines are kept in memory.

    Args:
        source: the files.
        tokens: makes the inputs of a text.

    Raises:
        DataError: a line is too long or no UTF-8, an object has no text, or a file has changed.
    """

    def __init__(self, source: SourceSpec, tokens: Tokens) -> None:
        self.name = source.text
        self._tokens = tokens
        self._files = UnchangedFiles()
        self._indices = [self._index(name, file) for name, file in source.files.items()]
        self._starts = [0, *accumulate(len(index.starts) for index in self._indices)]
        if not len(self):
            blank = self._indices[0].file if len(self._indices) == 1 else source.text
            raise DataError(f"{printable(str(blank))}: no text: every line is blank")
        fields = (f"a text a line; of a .jsonl the field '{FIELD}', else its only text",)
        self.traits = Traits("text", (*fields, *tokens.notes))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for number, wanted in by_file(self._starts, positions):
            index = self._indices[number]
            for i in wanted:
                where = f"{shown(index.file)}:{index.lines[i]}"
                inputs, text = self._inputs(index.file, index.starts[i], where)
                yield Sample(f"{index.name}:{index.lines[i]}", inputs, text)

    def _inputs(self, file: Path, start: int, where: str) -> tuple[Arrays, str]:
        """Return the inputs for the text that begins at a byte of a file, and the text."""
        with self._files.opened(file) as stream:
            stream.seek(start)
            text = _text(stream.readline(LINE_BYTES + 1), where, file.suffix.lower() == ".jsonl")
            try:
                return self._tokens.inputs(text), text
            except DataError as error:
                raise DataError(f"{where}: {error.message}", error.hint) from error
            except MemoryError:
                raise
            except Exception as error:  # the library raises bare Exception
                raise DataError(f"{where}: can't be tokenized: {printable(str(error), 120)}") from error

    def _index(self, name: str, file: Path) -> _Index:
        """Find the lines that are not blank."""
        index = _Index(name, file, array("q"), array("q"))
        with self._files.opened(file) as stream:
            start = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
            stream.seek(start)
            number = 0
            while line := stream.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    raise DataError(
                        f"{shown(file)}:{number}: a line of more than {LINE_BYTES:,} bytes",
                        "a text is a line",
                    )
                if line.strip():
                    index.starts.append(start)
                    index.lines.append(number)
                start += len(line)
                if number % _BEAT_EVERY == 0:
                    beat()
        return index


def _text(line: bytes, where: str, as_json: bool) -> str:
    """Return the text of a line.

    Raises:
        DataError: it is no UTF-8 or no JSON object, or has no text or several.
    """
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: not UTF-8 (byte {error.start + 1} of the line)", "save it as UTF-8"
        ) from None
    if not as_json:
        return text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {printable(str(error), 120)}") from None
    if not isinstance(content, dict):
        raise DataError(f"{where}: no JSON object", f'such a line is {{"{FIELD}": ".."}}')
    texts = {key: value for key, value in content.items() if isinstance(value, str)}
    if FIELD in texts:
        return texts[FIELD]
    if len(texts) != 1:
        has = printable(", ".join(map(str, content)), 80) or "nothing"
        raise DataError(f"{where}: no field '{FIELD}' (it has: {has})", f"call the text '{FIELD}'")
    return next(iter(texts.values()))
