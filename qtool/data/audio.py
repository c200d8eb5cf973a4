"""Samples of recordings, cut into windows of the model's input length."""

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

from qtool.data.files import MOST_FILES, UnchangedFiles, shown
from qtool.data.model_inputs import ModelInput
from qtool.data.samples import Sample, SourceSpec, Traits, by_file
from qtool.errors import DataError, UsageError, printable
from qtool.runtime.heartbeat import beat

WHOLE_SECONDS = 600  # the longest recording that is one sample
_BLOCK = 1 << 16  # frames that are resampled at once
_RANKS = (1, 2, 3)

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class _Recording:
    """The header of a file, and the number of its windows, which are samples."""

    file: Path
    name: str
    frames: int
    rate: int
    windows: int


def open_audio(source: SourceSpec) -> Windows:
    """Return the windows of recordings as samples.

    Raises:
        DataError: a file is no recording, or the recordings have several rates.
        UsageError: the model has no input for a waveform, or several.
    """
    name, spec = _waveform(source)
    return Windows(source, name, spec)


class Windows:
    """Consecutive windows of recordings, mono float32. A shorter recording is padded with zeros.

    Where the model leaves the last axis open, there is no window, and a whole recording is a sample.

    Args:
        source: the files.
        input_name: of the input in the samples.
        spec: the input; its last axis is time.
    """

    def __init__(self, source: SourceSpec, input_name: str, spec: ModelInput) -> None:
        self.name = source.text
        self._input = input_name
        self._spec = spec
        last = spec.shape[-1] if spec.shape else None
        self._window = last if isinstance(last, int) else 0
        self._rate = source.reading.rate
        self._files = UnchangedFiles()
        self._recordings = [self._header(file, name) for name, file in source.files.items()]
        if not self._rate:
            self._rate = _common_rate(self._recordings)
        self._starts = [0, *accumulate(recording.windows for recording in self._recordings)]
        if len(self) > MOST_FILES:
            raise DataError(
                f"{printable(source.text)}: {len(self):,} windows of {self._window}", "take a part"
            )
        self.traits = Traits("audio", tuple(self._notes()))

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        for index, wanted in by_file(self._starts, positions):
            recording = self._recordings[index]
            for number, wave in zip(wanted, self._waves(recording, wanted), strict=True):
                yield Sample(self._sample_name(recording, number), {self._input: self._shaped(wave)})

    def _header(self, file: Path, name: str) -> _Recording:
        with self._files.opened(file) as stream, _decoded(stream) as sound:
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
        """Yield the wanted windows of a recording, or all of it."""
        if recording.rate != self._rate:
            yield from self._resampled(recording, wanted)
            return
        length = self._window or recording.frames
        for number in wanted:
            yield _padded(self._frames(recording, number * length, length), length)

    def _resampled(self, recording: _Recording, wanted: Sequence[int]) -> Iterator[Wave]:
        """Yield the wanted windows, resampled from the beginning: a resampler has a state."""
        resampler = soxr.ResampleStream(recording.rate, self._rate, 1, dtype="float32")
        held: list[Wave] = []  # resampled, and not cut into windows yet
        have = number = at = 0
        left = sorted(wanted, reverse=True)
        while left:
            wave = self._frames(recording, at, _BLOCK)
            at += len(wave)
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
                    yield _padded(joined[cut : cut + length], length)
                cut, number = cut + length, number + 1
            held, have = [joined[cut:]], max(0, len(joined) - cut)

    def _frames(self, recording: _Recording, start: int, count: int) -> Wave:
        """Read frames of a recording from `start` on, fewer at its end: the mean of the channels."""
        there = min(count, recording.frames - start)
        with self._files.opened(recording.file) as stream, _decoded(stream) as sound:
            if start:
                sound.seek(start)
            read: Wave = sound.read(there, dtype="float32", always_2d=True)
        if len(read) < there:
            raise DataError(f"{shown(recording.file)}: it ends early")
        mean: Wave = read.mean(axis=1, dtype=np.float32)
        return mean

    def _shaped(self, wave: Wave) -> NDArray[np.generic]:
        rank = len(self._spec.shape or (1, 1))
        return wave.reshape((1,) * (rank - 1) + (-1,)).astype(self._spec.dtype, copy=False)

    def _sample_name(self, recording: _Recording, number: int) -> str:
        if recording.windows == 1:
            return recording.name
        seconds = f"{number * self._window / self._rate:.6f}".rstrip("0").rstrip(".")
        return f"{recording.name}@{seconds}"

    def _notes(self) -> Iterator[str]:
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


def _waveform(source: SourceSpec) -> tuple[str, ModelInput]:
    """Return the input for the waveform: the only one of floats in which no axis but the last exceeds 1.

    Raises:
        UsageError: there is none, or there are several.
    """
    fit = {name: spec for name, spec in source.wanted.items() if _takes_wave(spec)}
    if len(fit) == 1:
        return next(iter(fit.items()))
    wanted = ", ".join(f"{name}: {spec}" for name, spec in source.wanted.items())
    if fit:
        last = list(fit)[-1]
        raise UsageError(
            f"recordings are for one input, and {len(fit)} inputs take a waveform ({printable(wanted)})",
            f"--fill '{last}=0' fills one with a number; or save samples as .npz",
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
                f"--rate {first.rate}, or the rate of the model, resamples them",
            )
    return first.rate


@contextmanager
def _decoded(stream: object) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(stream) as sound:
            yield sound
    except soundfile.LibsndfileError as error:  # its own text shows the stream's object
        raise ValueError(error.error_string) from error


def _padded(wave: Wave, length: int) -> Wave:
    return np.pad(wave, (0, length - len(wave))) if len(wave) < length else wave
