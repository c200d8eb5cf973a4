"""What is being done right now, for whoever may have to say what a process died of.

A native library that crashes, hangs or eats all memory can't say what it was at. So the steps are noted on a
page of memory that outlives the process: cli/guard.py shares one with the process that does the work.
Without a page, as in a Python program that calls the library, noting is nearly free.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qtool.errors import QtoolError, printable

StepProgress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

PAGE_BYTES = 1 << 16
_HEAD = struct.Struct("<QQQ?")  # beats; bytes of model at hand; length of the note that follows; the end


@dataclass(frozen=True)
class Step:
    """One thing that can take long or go wrong.

    Args:
        subject: whose fault it would be: a model, a file of samples.
        doing: what is done with it: "onnxruntime runs it".
        blame: the exit code of an error in it.
    """

    subject: str
    doing: str
    blame: int


@dataclass(frozen=True)
class Seen:
    """What a page shows.

    Args:
        beats: how often something went on.
        model_bytes: size of the largest model at hand.
        ended: the work came to its end, good or bad.
        step: the last one; None when none was begun, or its note is torn.
        folders: where temporary files are, once for each.
    """

    beats: int
    model_bytes: int
    ended: bool = False
    step: Step | None = None
    folders: tuple[str, ...] = ()


class _Notes:
    """What this process has to tell."""

    def __init__(self) -> None:
        self.page: mmap.mmap | None = None
        self.beats = 0
        self.model_bytes = 0
        self.ended = False
        # Of all threads, in the order in which they began: a thread ends its own, wherever that stands.
        self.steps: list[list[str | int]] = []
        self.lock = threading.RLock()
        self.folders: list[str] = []

    def beat(self) -> None:
        with self.lock:
            self.beats += 1
            if self.page is not None:
                self.page[:8] = self.beats.to_bytes(8, "little")

    def begin(self, step: list[str | int]) -> None:
        with self.lock:
            self.steps.append(step)
            self.write()

    def end(self, step: list[str | int]) -> None:
        with self.lock:
            self.steps = [s for s in self.steps if s is not step]
            self.write()

    def write(self) -> None:
        """Note the step that began last among those that still go on. The caller holds the lock."""
        self.beats += 1
        if self.page is None:
            return
        note = json.dumps([self.steps[-1] if self.steps else None, self.folders]).encode()
        if len(note) <= PAGE_BYTES - _HEAD.size:
            head = _HEAD.pack(self.beats, self.model_bytes, len(note), self.ended)
            self.page[: _HEAD.size + len(note)] = head + note


_notes = _Notes()


def show_on(page: mmap.mmap) -> None:
    """Note the steps of this process on a page from now on."""
    with _notes.lock:
        _notes.page = page
        _notes.write()


def beat() -> None:
    """Say that the step goes on: a sample has passed, say."""
    _notes.beat()


def end() -> None:
    """Say that the work is over, as it should be: with a result, or with an error."""
    with _notes.lock:
        _notes.ended = True
        _notes.write()


def weighs(model_bytes: int) -> None:
    """Say how large the model at hand is: steps on larger ones may take longer."""
    with _notes.lock:
        _notes.model_bytes = max(_notes.model_bytes, model_bytes)
        _notes.write()


@contextlib.contextmanager
def writing_in(folder: str) -> Iterator[None]:
    """Note a folder while it holds a temporary file: the guard sweeps it if this process is killed."""
    with _notes.lock:
        _notes.folders.append(folder)
        _notes.write()
    try:
        yield
    except KeyboardInterrupt:  # it may have come between the making of the file and its removal: sweep there
        raise
    except BaseException:
        _forget(folder)
        raise
    _forget(folder)


def _forget(folder: str) -> None:
    with _notes.lock:
        _notes.folders.remove(folder)
        _notes.write()


@contextlib.contextmanager
def step(subject: str, doing: str, blame: type[QtoolError]) -> Iterator[None]:
    """Be at a step, inside whatever step this one is a part of.

    Several threads may be at steps at once; each ends its own.
    """
    this: list[str | int] = [printable(subject, 200), printable(doing, 200), blame.exit_code]
    _notes.begin(this)
    try:
        yield
    finally:
        _notes.end(this)


def seen(page: mmap.mmap) -> Seen:
    """Read a page that another process writes."""
    beats, model_bytes, length, ended = _HEAD.unpack_from(page)
    note = page[_HEAD.size : _HEAD.size + min(length, PAGE_BYTES - _HEAD.size)]
    try:
        last, folders = json.loads(note)
        return Seen(beats, model_bytes, ended, Step(*last) if last else None, tuple(folders))
    except (ValueError, TypeError):  # nothing there yet, or the writer died within it
        return Seen(beats, model_bytes, ended)


def no_progress(done: int, total: int) -> None:
    """Report no progress: the default of functions that take a StepProgress."""
