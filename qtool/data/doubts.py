"""Doubts about samples, from those that a run reads anyway: what looks wrong and may be right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field

import numpy as np

from qtool.data.image_input import CHANNELS, Frame, frame_of
from qtool.data.model_inputs import ModelInput, ModelInputs
from qtool.data.reading import Reading
from qtool.data.samples import Sample, Samples, Wrapped, digest_of
from qtool.data.statistics import InputStatistics
from qtool.errors import counted, printable

# Statistics are of this many samples at most, and of this many elements.
LOOKED_AT = 100
_ELEMENTS = 1 << 24
# A sample is blank where inputs of this many elements hold one number only.
_LEAST_ELEMENTS = 16
# A file of fewer samples than this that are batches of at least as many rows may be stacked.
_FEW_SAMPLES, _MANY_ROWS = 4, 8
_PIXEL = 255
# Two sources were not preprocessed alike where their spreads differ by this factor, or where the means of the
# channels are this much nearer in reverse.
_SPREAD = 10.0
_REVERSED = 0.25
# Pixels are 100 to 500 times as large as what a normalised network was trained on.
_MAGNITUDE = 20.0


@dataclass
class _InputDoubts:
    """The statistics of one input."""

    port: ModelInput
    frame: Frame | None
    statistics: InputStatistics = field(init=False)

    def __post_init__(self) -> None:
        self.statistics = InputStatistics(self.frame.axis if self.frame else None)


@dataclass(frozen=True)
class Habits:
    """The evidence of what the inputs of a model should hold.

    Args:
        rescaled: inputs that the model itself normalises, whatever their range.
        magnitudes: input -> its root mean square in training, where a BatchNormalization tells it.
        configured: a preprocessor_config.json lies beside the model: its images are normalised.
    """

    rescaled: frozenset[str] = frozenset()
    magnitudes: Mapping[str, float] = field(default_factory=dict)
    configured: bool = False


class ObservedSamples(Wrapped):
    """Samples that are looked at while they are read, each once.

    Args:
        source: the samples, as the model gets them.
        inputs: of the model.
        reading: how the user wants the samples read.
        habits: of the model.
    """

    def __init__(
        self, source: Samples, inputs: ModelInputs, reading: Reading, habits: Habits | None = None
    ) -> None:
        super().__init__(source)
        self._reading = reading
        self._habits = habits or Habits()
        self.rows = {
            name: _InputDoubts(port, frame_of(port))
            for name, port in inputs.items()
            if name not in reading.fill
        }
        self.digests: dict[int, int] = {}
        self._elements = self._looked = 0
        self._blank: list[str] = []

    def read(self, positions: Set[int] | None = None) -> Iterator[Sample]:
        order = range(len(self)) if positions is None else sorted(positions)
        for position, sample in zip(order, self._source.read(positions), strict=False):
            if position not in self.digests and not self.traits.synthetic:
                self.digests[position] = digest_of(sample)
                self._look(sample)
            yield sample

    def _look(self, sample: Sample) -> None:
        if self._looked >= LOOKED_AT or self._elements > _ELEMENTS:
            return
        self._looked += 1
        floats = []
        for name, row in self.rows.items():
            array = sample.inputs.get(name)
            if array is None or (row.frame and array.ndim != 3 + row.frame.batched):
                continue  # it does not fit, which is an error where it is used
            row.statistics.add(np.asarray(array), str(array.dtype))
            self._elements += array.size
            if row.port.floating and array.size >= _LEAST_ELEMENTS and array.dtype.kind in "fiu":
                floats.append(bool(array.min() == array.max()))
        if floats and all(floats):
            self._blank.append(sample.name)

    def doubts(self) -> list[str]:
        """Return what looks wrong, a line each; random samples are beyond doubt."""
        told = []
        for row in self.rows.values():
            told += _doubts_of(row, self._habits, self._raw)
        if self._blank and not any("everywhere" in line for line in told):
            told.append(
                f"{self.name}: {len(self._blank)} of {self._looked} samples are constant, such as "
                f"{printable(self._blank[0], 80)}: a blank image, or a file that failed to load?"
            )
        if len(self.digests) > 1 and len(set(self.digests.values())) == 1:
            told.append(f"{self.name}: all {len(self.digests)} samples that were read are the same")
        return [*told, *self._stacked()]

    @property
    def _raw(self) -> bool:
        """Whether the user asks for pixels as they are."""
        return self._reading.preset == "raw" and self.traits.kind == "images"

    def _stacked(self) -> list[str]:
        """Samples that look like batches of what the user calls a sample."""
        shapes = [next(iter(row.statistics.shapes), ()) for row in self.rows.values()]
        rows = {shape[0] if shape else 0 for shape in shapes}
        opened = all(row.port.shape and not isinstance(row.port.shape[0], int) for row in self.rows.values())
        few = len(self) < _FEW_SAMPLES and self.traits.kind in ("npz", "npy")
        if not few or self._reading.split_batch or not opened or len(rows) != 1 or max(rows) < _MANY_ROWS:
            return []
        count = counted(len(self), "sample")
        return [f"{self.name}: {count} of {max(rows)} rows each; if every row is a sample, add --split-batch"]


def doubts_of(calib: ObservedSamples | None, data: ObservedSamples | None) -> tuple[str, ...]:
    """Return what looks wrong in the sources of a run, by the samples read so far.

    Two sources should be alike, and share no sample.
    """
    told = [line for source in (calib, data) if source is not None for line in source.doubts()]
    if calib is not None and data is not None:
        told += _doubts_between(calib, data)
    return tuple(dict.fromkeys(told))


def _doubts_between(calib: ObservedSamples, data: ObservedSamples) -> list[str]:
    """Doubts about a source that sets ranges and one that judges."""
    told = []
    shared = 0
    if calib.name != data.name:  # data/split.py has a note on one source under both options
        earlier = set(calib.digests.values())
        shared = sum(each in earlier for each in data.digests.values())
    total = len(data.digests)
    if shared:
        told.append(
            f"{shared} of {total} samples of --data ({data.name}) are in --calib as well: the verdict is on "
            "samples that set the ranges or made choices, so it is optimistic"
        )
    for name, row in calib.rows.items():
        other = data.rows.get(name)
        if other is None or not row.port.floating:
            continue
        a, b = row.statistics.all.figures(), other.statistics.all.figures()
        if a.std and b.std and not 1 / _SPREAD < a.std / b.std < _SPREAD:
            told.append(
                f"input '{printable(name)}' is {a.minimum:.3g}..{a.maximum:.3g} in --calib and "
                f"{b.minimum:.3g}..{b.maximum:.3g} in --data: are both preprocessed alike?"
            )
        elif _is_reversed(row.statistics, other.statistics, a.std):
            told.append(f"input '{printable(name)}': the channels of --data look reversed (RGB or BGR?)")
    return told


def _is_reversed(a: InputStatistics, b: InputStatistics, std: float) -> bool:
    """Whether the means of three channels are near each other only when one source is reversed."""
    if len(a.channels) != 3 or len(b.channels) != 3:
        return False
    here, there = (np.array([channel.figures().mean for channel in s.channels]) for s in (a, b))
    straight, reverse = (float(np.linalg.norm(here - other)) for other in (there, there[::-1]))
    return straight > _REVERSED * std and reverse < _REVERSED * straight


def _doubts_of(row: _InputDoubts, habits: Habits, raw: bool) -> list[str]:
    """Doubts about an input of floats. Integers are not judged: masks are constant for a reason."""
    port, frame, figures = row.port, row.frame, row.statistics.all
    name = f"input '{printable(port.name)}'"
    if not port.floating or not figures.count:
        return []
    told = []
    if figures.low == figures.high:
        if figures.count > 1:
            told.append(f"{name} is {figures.low:g} everywhere")
    elif not raw and _unnormalised(row, habits):
        told.append(
            f"{name} holds numbers from {figures.low:g} to {figures.high:g}: looks unnormalised, "
            "unless the model normalises by itself"
        )
    shape = next(iter(row.statistics.shapes), None)
    if frame is None and shape and _channels_last(shape):
        told.append(f"{name} has shape {shape}: looks channels-last; if the model wants NCHW, --layout nhwc")
    return told


def _unnormalised(row: _InputDoubts, habits: Habits) -> bool:
    """Whether an image has the range of pixels, and the model seems to want another.

    Three channels are doubted without more evidence. One channel is often meant to be raw (documents,
    digits): it is doubted where a file beside the model, or a BatchNormalization, speaks against it.
    """
    figures, frame = row.statistics.all, row.frame
    pixels = figures.low >= 0 and (2 if figures.integral else 100) < figures.high <= _PIXEL
    if frame is None or not pixels or row.port.name in habits.rescaled:
        return False
    usual = habits.magnitudes.get(row.port.name)
    if usual is not None:
        summary = figures.figures()
        return bool(np.hypot(summary.mean, summary.std) > _MAGNITUDE * usual)
    return frame.channels != 1 or habits.configured


def _channels_last(shape: tuple[int, ...]) -> bool:
    """Whether a shape has 1, 3 or 4 at the end, and larger sides before it."""
    return len(shape) == 4 and shape[3] in CHANNELS and min(shape[1:3]) > max(CHANNELS)
