"""The current step of the work, written to shared memory, for the report of a crash.

A native library that crashes, hangs or runs out of memory can't report its step. So the steps are written to
a page of memory that outlives the process: cli/guard.py shares one with the process that does the work.
Without a page, as in a Python program that calls the library, this is nearly free.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
import sys
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
    """A step that can take long or fail.

    Args:
        subject: its model or file of samples.
        doing: the action, for a message: "onnxruntime runs it".
        blame: the exit code of an error in it.
    """

    subject: str
    doing: str
    blame: int


@dataclass(frozen=True)
class Snapshot:
    """The content of a page.

    Args:
        beats: the number of heartbeats.
        model_bytes: the size of the largest model so far.
        ended: whether the work has ended, with a result or an error.
        step: the step that began last; None where there is none, or its note is incomplete.
        folders: the folder of each temporary file.
        stage: the part of the work, as the progress line names it; '' for none.
    """

    beats: int
    model_bytes: int
    ended: bool = False
    step: Step | None = None
    folders: tuple[str, ...] = ()
    stage: str = ""


class _Notes:
    """The state of this process, and the page that it is written to."""

    def __init__(self) -> None:
        self.page: mmap.mmap | None = None
        self.beats = 0
        self.model_bytes = 0
        self.ended = False
        # Of all threads, in the order of their begin; a thread ends its own step.
        self.steps: list[list[str | int]] = []
        self.lock = threading.RLock()
        self.folders: list[str] = []
        self.stage = ""

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
        """Write the step that began last and has not ended. The caller holds the lock."""
        self.beats += 1
        if self.page is None:
            return
        note = json.dumps([self.steps[-1] if self.steps else None, self.folders, self.stage]).encode()
        if len(note) <= PAGE_BYTES - _HEAD.size:
            head = _HEAD.pack(self.beats, self.model_bytes, len(note), self.ended)
            self.page[: _HEAD.size + len(note)] = head + note


_notes = _Notes()


def show_on(page: mmap.mmap) -> None:
    """Write the steps of this process to a page from now on."""
    with _notes.lock:
        _notes.page = page
        _notes.write()


def beat() -> None:
    """Give a heartbeat: the step goes on, for instance a sample has passed."""
    _notes.beat()


def stage(name: str) -> None:
    """Give a heartbeat, and note the part of the work that goes on."""
    with _notes.lock:
        if name != _notes.stage:
            _notes.stage = name
            _notes.write()
    _notes.beat()


class _Imports:
    """A finder of modules that finds none: each import is a heartbeat, as a slow disk is no hang."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        beat()


def beat_on_imports() -> None:
    """Count every import of a module as a heartbeat from now on."""
    sys.meta_path.insert(0, _Imports())


def end() -> None:
    """Note that the work has ended, with a result or an error."""
    with _notes.lock:
        _notes.ended = True
        _notes.write()


def weighs(model_bytes: int) -> None:
    """Note the size of a model: steps on a larger one may take longer."""
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
    """Note a step while it runs. Steps nest, and threads have steps of their own."""
    this: list[str | int] = [printable(subject, 200), printable(doing, 200), blame.exit_code]
    _notes.begin(this)
    try:
        yield
    finally:
        _notes.end(this)


def read(page: mmap.mmap) -> Snapshot:
    """Return the content of a page that another process writes."""
    beats, model_bytes, length, ended = _HEAD.unpack_from(page)
    note = page[_HEAD.size : _HEAD.size + min(length, PAGE_BYTES - _HEAD.size)]
    try:
        last, folders, stage = json.loads(note)
        return Snapshot(beats, model_bytes, ended, Step(*last) if last else None, tuple(folders), stage)
    except (ValueError, TypeError):  # nothing there yet, or the writer died within it
        return Snapshot(beats, model_bytes, ended)


def no_progress(done: int, total: int) -> None:
    """Report no progress: the default of functions that take a StepProgress."""
