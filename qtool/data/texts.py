"""Texts: a line of a .txt, or an object a line of a .jsonl; tokenized for a model."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qtool.data.files import opened, shown
from qtool.data.found import Found
from qtool.data.samples import Sample, Traits
from qtool.data.tokens import Tokens, tokens_for
from qtool.errors import DataError, printable
from qtool.runtime.heartbeat import beat

# A line that is longer is no text, but a file of another kind.
LINE_BYTES = 10 << 20
FIELD = "text"
_BOM = b"\xef\xbb\xbf"
_BEAT_EVERY = 1 << 16


def open_texts(found: Found) -> TextFiles:
    """The texts of a file, or of a folder's files one after another.

    Raises:
        UsageError: no tokenizer, no input that takes tokens.
        DataError: a file that is no text; not one line that is not blank.
    """
    return TextFiles(
        found.folder, found.names, found.text, tokens_for(found.inputs, found.reading, found.model)
    )


@dataclass(frozen=True)
class _Index:
    """Where the texts of one file are: by byte, and by number of line; `mark` tells the file from another."""

    starts: array[int]
    lines: array[int]
    mark: tuple[int, int, int]


class TextFiles:
    """Samples that are lines of text files, of which only the places are kept.

    Args:
        folder: where the files are; `names` are relative to it.
        name: of the source, for messages.
        tokens: what makes inputs of a text.

    Raises:
        DataError: a line that is too long or no UTF-8, an object without text, a file that has changed.
    """

    def __init__(self, folder: Path, names: list[str], name: str, tokens: Tokens) -> None:
        self._folder = folder
        self._names = names
        self._tokens = tokens
        self._indices = [_indexed(folder / n) for n in names]
        self.name = name
        if not len(self):
            what = shown(folder / names[0]) if len(names) == 1 else f"'{printable(name)}'"
            raise DataError(f"{what}: no text: every line is blank")
        fields = (f"a text a line; of a .jsonl the field '{FIELD}', else its only text",)
        self.traits = Traits("text", (*fields, *tokens.how))

    def __len__(self) -> int:
        return sum(len(index.starts) for index in self._indices)

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        before = 0
        for name, index in zip(self._names, self._indices, strict=True):
            count = len(index.starts)
            chosen = [i for i in range(count) if positions is None or before + i in positions]
            before += count
            if chosen:
                yield from self._of_file(name, index, chosen)

    def _of_file(self, name: str, index: _Index, chosen: list[int]) -> Iterator[Sample]:
        """The file is open only while a text is read: whoever gets the sample may take long."""
        for i in chosen:
            label = f"{name}:{index.lines[i]}"
            where = printable(str(self._folder / label))
            with opened(self._folder / name) as stream:
                if _mark(stream) != index.mark:
                    raise DataError(f"{shown(self._folder / name)}: changed while it was in use")
                stream.seek(index.starts[i])
                text = _text(stream.readline(LINE_BYTES + 1), where, name.lower().endswith(".jsonl"))
                try:
                    inputs = dict(self._tokens.inputs(text))
                except DataError as error:
                    raise DataError(f"{where}: {error.message}", error.hint) from error
                except MemoryError:
                    raise
                except Exception as error:  # the library's own, which is bare
                    raise DataError(f"{where}: can't be tokenized: {printable(str(error), 120)}") from error
            yield Sample(label, dict(inputs))


def _indexed(file: Path) -> _Index:
    """The lines that are not blank."""
    starts, lines = array("q"), array("q")
    with opened(file) as stream:
        mark = _mark(stream)
        start = len(_BOM) if stream.read(len(_BOM)) == _BOM else 0
        stream.seek(start)
        number = 0
        while line := stream.readline(LINE_BYTES + 1):
            number += 1
            if len(line) > LINE_BYTES:
                raise DataError(
                    f"{shown(file)}:{number}: a line of more than {LINE_BYTES:,} bytes", "a text is a line"
                )
            if line.strip():
                starts.append(start)
                lines.append(number)
            start += len(line)
            if number % _BEAT_EVERY == 0:
                beat()
    return _Index(starts, lines, mark)


def _mark(stream: BinaryIO) -> tuple[int, int, int]:
    info = os.fstat(stream.fileno())
    return info.st_ino, info.st_size, info.st_mtime_ns


def _text(line: bytes, where: str, as_json: bool) -> str:
    """What a line says.

    Raises:
        DataError: no UTF-8, no JSON object, none or several texts in it.
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
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {printable(str(error), 120)}") from None
    if not isinstance(found, dict):
        raise DataError(f"{where}: no JSON object", f'such a line is {{"{FIELD}": ".."}}')
    texts = {key: value for key, value in found.items() if isinstance(value, str)}
    if FIELD in texts:
        return texts[FIELD]
    if len(texts) != 1:
        has = printable(", ".join(map(str, found)), 80) or "nothing"
        raise DataError(f"{where}: no field '{FIELD}' (it has: {has})", f"call the text '{FIELD}'")
    return next(iter(texts.values()))
