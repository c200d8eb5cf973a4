"""Recordings, cut into windows of what the model takes at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from qtool.data.files import MOST_FILES, Unchanged, mark_of, opened, shown
from qtool.data.found import Found
from qtool.data.model_inputs import ModelInput
from qtool.data.samples import Sample, Traits, by_file
from qtool.errors import DataError, UsageError, printable
from qtool.runtime.heartbeat import beat

WHOLE_SECONDS = 600  # of a recording that is a sample as a whole
_BLOCK = 1 << 16  # frames that are resampled at once
_RANKS = (1, 2, 3)

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class _Recording:
    """A file, as its header has it; `windows` of it are samples."""

    file: Path
    name: str
    frames: int
    rate: int
    windows: int


def open_audio(found: Found) -> Windows:
    """The windows of recordings.

    Raises:
        DataError: a file that is no recording, or recordings of several rates.
        UsageError: the model has no one input for a waveform.
    """
    name, spec = _waveform(found)
    return Windows(found, name, spec)


class Windows:
    """Consecutive windows of recordings, as mono float32; at least one each, the last one filled with zeros.

    Without a window, where the model leaves the last axis open, a recording is a sample as a whole.

    Args:
        found: the files.
        input_name: what the samples call the input.
        spec: the input; its last axis is time.
    """

    def __init__(self, found: Found, input_name: str, spec: ModelInput) -> None:
        self.name = found.text
        self._input = input_name
        self._spec = spec
        last = spec.shape[-1] if spec.shape else None
        self._window = last if isinstance(last, int) else 0
        self._rate = found.reading.rate
        self._unchanged = Unchanged()
        named = zip(found.files, found.names, strict=True)
        self._recordings = [self._look(file, name) for file, name in named]
        if not self._rate:
            self._rate = _common_rate(self._recordings)
        self._starts = [0, *accumulate(recording.windows for recording in self._recordings)]
        if len(self) > MOST_FILES:
            raise DataError(
                f"{printable(found.text)}: {len(self):,} windows of {self._window}", "take a part"
            )
        self.traits = Traits("audio", tuple(self._how()))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, wanted in by_file(self._starts, positions):
            recording = self._recordings[index]
            for number, wave in zip(wanted, self._waves(recording, wanted), strict=True):
                yield Sample(self._called(recording, number), {self._input: self._laid(wave)})

    def _look(self, file: Path, name: str) -> _Recording:
        with opened(file) as stream:
            self._unchanged.check(file, mark_of(stream))
            with _decoded(stream) as sound:
                frames, rate = sound.frames, sound.samplerate
        if frames <= 0 or rate <= 0:
            raise DataError(f"{shown(file)}: it holds no sound")
        to = self._rate or rate
        if not self._window and frames > WHOLE_SECONDS * rate:
            raise DataError(
                f"{shown(file)}: {frames / rate:,.0f} s; a whole recording may have {WHOLE_SECONDS}",
                f"--shape {self._spec.name}=1,16000 cuts recordings into windows",
            )
        windows = max(1, frames * to // rate // self._window) if self._window else 1
        return _Recording(file, name, frames, rate, windows)

    def _waves(self, recording: _Recording, wanted: Sequence[int]) -> Iterator[Wave]:
        """The wanted windows of a recording, or all of it."""
        if recording.rate != self._rate:
            yield from self._resampled(recording, wanted)
            return
        length = self._window or recording.frames
        for number in wanted:
            with opened(recording.file) as stream:
                self._unchanged.check(recording.file, mark_of(stream))
                with _decoded(stream) as sound:
                    if number:
                        sound.seek(number * length)
                    there = min(length, recording.frames - number * length)
                    wave = _mono(sound, there)
                    if len(wave) < there:
                        raise DataError(f"{shown(recording.file)}: it ends early")
            yield _filled(wave, length)

    def _resampled(self, recording: _Recording, wanted: Sequence[int]) -> Iterator[Wave]:
        """The same from the beginning on: a resampler remembers. Files are open for a block at a time."""
        resampler = soxr.ResampleStream(recording.rate, self._rate, 1, dtype="float32")
        held: list[Wave] = []  # what was resampled and not cut yet
        have = number = at = 0
        left = sorted(wanted, reverse=True)
        while left:
            count = min(_BLOCK, recording.frames - at)
            with opened(recording.file) as stream:
                self._unchanged.check(recording.file, mark_of(stream))
                with _decoded(stream) as sound:
                    sound.seek(at)
                    wave = _mono(sound, count)
                if len(wave) < count:
                    raise DataError(f"{shown(recording.file)}: it ends early")
                at += count
                ended = at == recording.frames
                held.append(resampler.resample_chunk(wave, last=ended))
            have += len(held[-1])
            beat()
            if not ended and (not self._window or have < self._window):
                continue
            joined, cut = np.concatenate(held), 0
            length = self._window or len(joined)
            while left and (ended or cut + length <= len(joined)):
                if number == left[-1]:
                    left.pop()
                    yield _filled(joined[cut : cut + length], length)
                cut, number = cut + length, number + 1
            held, have = [joined[cut:]], max(0, len(joined) - cut)

    def _laid(self, wave: Wave) -> NDArray[np.generic]:
        rank = len(self._spec.shape or (1, 1))
        return wave.reshape((1,) * (rank - 1) + (-1,)).astype(self._spec.dtype, copy=False)

    def _called(self, recording: _Recording, number: int) -> str:
        if recording.windows == 1:
            return recording.name
        seconds = f"{number * self._window / self._rate:.6f}".rstrip("0").rstrip(".")
        return f"{recording.name}@{seconds}"

    def _how(self) -> Iterator[str]:
        yield f"input '{self._input}': mono, the mean of a file's channels, in [-1, 1] as {self._spec.dtype}"
        rates = sorted({recording.rate for recording in self._recordings})
        if rates == [self._rate]:
            yield f"{self._rate:,} samples a second, as in the files"
        else:
            yield f"resampled from {', '.join(f'{r:,}' for r in rates)} to {self._rate:,} samples a second"
        if self._window:
            seconds = self._window / self._rate
            yield f"cut into windows of {self._window:,} ({seconds:.4g} s), {len(self):,} in all"
        else:
            yield "a file is a sample as a whole"


def _waveform(found: Found) -> tuple[str, ModelInput]:
    """The input for the waveform: the one of floats in which no axis but the last is longer than 1.

    Raises:
        UsageError: there is none, or more than one.
    """
    fit = {name: spec for name, spec in found.wanted.items() if _takes_wave(spec)}
    if len(fit) == 1:
        return next(iter(fit.items()))
    wanted = ", ".join(f"{name}: {spec}" for name, spec in found.wanted.items())
    if fit:
        last = list(fit)[-1]
        raise UsageError(
            f"recordings are for one input, and {len(fit)} may be the one ({printable(wanted)})",
            f"--fill '{last}=0' makes up one that is not; or save .npz files",
        )
    raise UsageError(
        f"no input takes a waveform: floats, [T], [1, T] or [1, 1, T] ({printable(wanted) or 'none'})",
        "where the model takes spectra, compute them, and save them as .npz",
    )


def _takes_wave(spec: ModelInput) -> bool:
    if not spec.floating:
        return False
    if spec.shape is None:
        return True
    return len(spec.shape) in _RANKS and all(a == 1 for a in spec.shape[:-1] if isinstance(a, int))


def _common_rate(recordings: Sequence[_Recording]) -> int:
    first = recordings[0]
    for recording in recordings:
        if recording.rate != first.rate:
            raise DataError(
                f"{shown(recording.file)} has {recording.rate:,} samples a second, and {first.name} "
                f"{first.rate:,}",
                f"--rate {first.rate}, or whatever the model wants, resamples them",
            )
    return first.rate


@contextmanager
def _decoded(stream: object) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(stream) as sound:
            yield sound
    except soundfile.LibsndfileError as error:  # its own text shows the stream's object
        raise ValueError(error.error_string) from error


def _mono(sound: soundfile.SoundFile, frames: int) -> Wave:
    """The next frames, fewer at the end: the mean of the channels."""
    read: Wave = sound.read(frames, dtype="float32", always_2d=True)
    mean: Wave = read.mean(axis=1, dtype=np.float32)
    return mean


def _filled(wave: Wave, length: int) -> Wave:
    return np.pad(wave, (0, length - len(wave))) if len(wave) < length else wave
