"""H = sum x x^T of what each weight is multiplied with, a few layers at a time.

It is uncentred: what a weight's error does to a layer's mean counts as much as any other error. Only the sums
stay, float64 [K, K] a group; of the samples one is at hand at any time, with the values that the sums at
work are taken over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx_ir as ir

from qtool.calibration.runner import groups_of, value_reader
from qtool.data.samples import Samples, evenly
from qtool.numerics.qparams import F32, F64
from qtool.recover.operands import Operand

Progress = Callable[[int, int], None]

# So many samples show what there is, if each has rows enough. Short texts lack them: a transformer in
# int4 gains 3.7 dB by 16 of its samples, and 5.3 by 64. Of a layer more rows than these say little more.
_SAMPLES, _MOST_SAMPLES = 16, 64
_ROWS, _ROWS_A_COLUMN = 8192, 8
# Bytes of the sums at work, of the values that they are taken over, and of patches at a time.
_SUMS, _VALUES, _PATCHES = 32 << 20, 32 << 20, 4 << 20


@dataclass(frozen=True)
class Wanted:
    """A sum over all that one weight is multiplied with, wherever it is read.

    Args:
        operands: of its readers, each once.
        groups, columns: the sum is [groups, columns, columns].
    """

    operands: tuple[Operand, ...]
    groups: int
    columns: int

    @property
    def bytes(self) -> int:
        return 8 * self.groups * self.columns**2

    @property
    def share(self) -> int:
        """The most rows of one sample and operand."""
        return -(-max(_ROWS, _ROWS_A_COLUMN * self.columns) // _SAMPLES)

    @property
    def enough(self) -> int:
        """Rows, of all samples, beyond which no more are looked at."""
        return _SAMPLES * self.share // 2


@dataclass(frozen=True)
class Streamed:
    """Samples through a model.

    Args:
        model: prepared, or any other whose values have its names, such as a quantized one.
        source: the samples, of which 16 are taken, or up to 64 where those have few rows.
        threads: of the runtime.
        progress: called with how many runs of how many are done.
    """

    model: ir.Model
    source: Samples
    threads: int = 0
    progress: Progress = lambda done, total: None


def hessians(streamed: Streamed, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, F64]]:
    """Each sum, float64 [groups, columns, columns]: in any order, and each once.

    What was given out is not held on to: a caller that lets go of it holds few at a time.

    Raises:
        DataError: samples that do not fit the model.
        KeyError: the model has no such value.
        RuntimeFailure: the model fails on one.
    """
    batches = _batches(streamed, list(dict.fromkeys(wanted)))
    first, more = (evenly(len(streamed.source), count) for count in (_SAMPLES, _MOST_SAMPLES))
    rounds = [first, more - first]
    total = len(first | more)
    for number, batch in enumerate(batches):
        sums = {w: np.zeros((w.groups, w.columns, w.columns)) for w in batch}
        rows = dict.fromkeys(batch, 0)
        for done, values in enumerate(_runs(streamed, batch, rounds), start=1):
            for want in batch:
                for operand in want.operands:
                    rows[want] += _add(sums[want], operand, values[operand.value], want.share)
            streamed.progress(number * total + done, len(batches) * total)
            if done >= len(first) and all(rows[w] >= w.enough for w in batch):
                break
        for want in batch:
            yield want, sums.pop(want)


def _batches(streamed: Streamed, wanted: list[Wanted]) -> list[list[Wanted]]:
    """Sums that are taken at the same time: no more than fit, of them and of the values."""
    first = {w: w.operands[0].value for w in wanted}
    values = list(dict.fromkeys(first.values()))
    found: list[list[Wanted]] = []
    for group in groups_of(streamed.model, values, streamed.source, _VALUES, streamed.threads):
        room = 0
        for want in (w for w in wanted if first[w] in group):
            if room < want.bytes:
                found.append([])
                room = max(_SUMS, want.bytes)
            found[-1].append(want)
            room -= want.bytes
    return [batch for batch in found if batch]


def _runs(streamed: Streamed, batch: list[Wanted], rounds: Sequence[Set[int]]) -> Iterator[Mapping[str, F32]]:
    """The values that a batch needs, for each sample of each round; their memory is used for the next one."""
    names = list(dict.fromkeys(o.value for w in batch for o in w.operands))
    source = streamed.source
    with value_reader(streamed.model, names, streamed.threads, "the model whose layers are watched") as look:
        for sample in chain.from_iterable(map(source.read, rounds)):
            arrays = look(sample, source.name)
            yield {n: np.asarray(a, np.float32) for n, a in zip(names, arrays, strict=True)}


def _add(total: F64, operand: Operand, x: F32, most: int) -> int:
    """Add the products of a sample's rows, or of so many of them; of how many it were."""
    groups, columns = total.shape[:2]
    positions = operand.positions(x, most)
    x = operand.as_seen(x)
    step = max(1, _PATCHES // (4 * groups * columns))
    for start in range(0, len(positions), step):
        rows = operand.rows(x, positions[start : start + step])
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is rounded to nearest
            total += np.matmul(rows.swapaxes(1, 2), rows)
    return len(positions)
