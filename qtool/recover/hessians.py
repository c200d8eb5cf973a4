"""Hessians H = sum x x^T over the inputs of each weight, a few layers at a time.

They are not centred: a weight's error in a layer's mean counts as much as any other error. Memory holds the
sums, float64 [K, K] for each group, and the values of one sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain

import numpy as np
import onnx_ir as ir

from qtool.calibration.runner import groups_of, value_reader
from qtool.data.samples import Samples, evenly
from qtool.graph.save import tensor_bytes
from qtool.numerics.qparams import F32, F64
from qtool.recover.operands import Operand
from qtool.runtime.heartbeat import StepProgress, no_progress

# 16 samples suffice if each has enough rows. Short texts have few: a transformer in int4 gains 3.7 dB with 16
# of its samples, 5.3 dB with 64. More rows of a layer than these hardly change its Hessian.
_SAMPLES, _MOST_SAMPLES = 16, 64
_ROWS, _ROWS_A_COLUMN = 8192, 8
# Bytes of the sums of a batch, at least and at most: as many as the model's weights, whose size memory is
# measured by. Then those of the values that the sums are over, and of patches at a time.
_LEAST_SUMS, _MOST_SUMS = 32 << 20, 128 << 20
_VALUES, _PATCHES = 32 << 20, 4 << 20


@dataclass(frozen=True)
class HessianSpec:
    """The Hessian of one weight: over the operands of all nodes that read it.

    Args:
        operands: each once.
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
        """The most rows to add of one sample and operand."""
        return -(-max(_ROWS, _ROWS_A_COLUMN * self.columns) // _SAMPLES)

    @property
    def enough(self) -> int:
        """The number of rows, over all samples, after which no more samples are run."""
        return _SAMPLES * self.share // 2


@dataclass(frozen=True)
class ModelRun:
    """A model, and the samples to run it on.

    Args:
        model: prepared.
        source: the samples; 16 are run, or up to 64 where those have few rows.
        threads: of the runtime.
        progress: called with the runs done and the runs in all.
    """

    model: ir.Model
    source: Samples
    threads: int = 0
    progress: StepProgress = no_progress


def hessians(run: ModelRun, specs: Sequence[HessianSpec]) -> Iterator[tuple[HessianSpec, F64]]:
    """Yield each Hessian, float64 [groups, columns, columns], in any order.

    Few are held in memory at a time.

    Raises:
        DataError: a sample does not fit the model.
        KeyError: the model has no such value.
        RuntimeFailure: the model fails on a sample.
    """
    batches = _batches(run, list(dict.fromkeys(specs)))
    first, more = (evenly(len(run.source), count) for count in (_SAMPLES, _MOST_SAMPLES))
    rounds = [first, more - first]
    total = len(first | more)
    for number, batch in enumerate(batches):
        sums = {spec: _Sum(spec) for spec in batch}
        for done, values in enumerate(_values(run, batch, rounds), start=1):
            # Whatever else is in the batch: a weight's rows depend on the weight alone.
            _add({s: t for s, t in sums.items() if done <= len(first) or t.count < s.enough}, values)
            run.progress(number * total + done, len(batches) * total)
            if done >= len(first) and all(s.count >= spec.enough for spec, s in sums.items()):
                break
        for spec in batch:
            yield spec, sums.pop(spec).total


def _add(sums: Mapping[HessianSpec, _Sum], values: Mapping[str, F32]) -> None:
    """Add the values of a sample. The caller's own loop variables would keep the last sum in memory."""
    for spec, total in sums.items():
        for operand in spec.operands:
            total.add(operand, values[operand.value])


def _batches(run: ModelRun, specs: list[HessianSpec]) -> list[list[HessianSpec]]:
    """Hessians that are computed together: the sums and the values of a batch fit in memory."""
    first = {spec: spec.operands[0].value for spec in specs}
    values = list(dict.fromkeys(first.values()))
    most = min(max(tensor_bytes(run.model), _LEAST_SUMS), _MOST_SUMS)
    batches: list[list[HessianSpec]] = []
    for group in groups_of(run.model, values, run.source, _VALUES, run.threads):
        room = 0
        for spec in (spec for spec in specs if first[spec] in group):
            if room < spec.bytes:
                batches.append([])
                room = max(most, spec.bytes)
            batches[-1].append(spec)
            room -= spec.bytes
    return [batch for batch in batches if batch]


def _values(
    run: ModelRun, batch: list[HessianSpec], rounds: Sequence[Set[int]]
) -> Iterator[Mapping[str, F32]]:
    """The values of a batch for each sample of each round, valid until the next one."""
    names = list(dict.fromkeys(o.value for w in batch for o in w.operands))
    source = run.source
    with value_reader(run.model, names, run.threads, "the model with inner values as outputs") as look:
        for sample in chain.from_iterable(map(source.read, rounds)):
            arrays = look(sample, source.name)
            yield {n: np.asarray(a, np.float32) for n, a in zip(names, arrays, strict=True)}


class _Sum:
    """The sum of x x^T over the rows of one weight.

    Rows of several samples wait for a product of their own: to add a large matrix for a few rows costs more
    than their product.

    Args:
        spec: of the weight.
    """

    def __init__(self, spec: HessianSpec) -> None:
        self._total = np.zeros((spec.groups, spec.columns, spec.columns))
        self._share = spec.share
        self._waiting: list[F32] = []
        self._most = min(spec.bytes, _PATCHES)  # bytes
        self._row = 4 * spec.groups * spec.columns
        self.count = 0

    def add(self, operand: Operand, x: F32) -> None:
        """Add rows of a sample, as many as the spec's share."""
        positions = operand.positions(x, self._share)
        x = operand.rounded(x)
        step = max(1, _PATCHES // self._row)
        for start in range(0, len(positions), step):
            self._waiting.append(operand.rows(x, positions[start : start + step]))
            if sum(rows.nbytes for rows in self._waiting) >= self._most:
                self._multiply()
        self.count += len(positions)

    @property
    def total(self) -> F64:
        """The sum over all rows: [groups, columns, columns]."""
        self._multiply()
        return self._total

    def _multiply(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._waiting = []
        with np.errstate(over="ignore", invalid="ignore"):  # weights with an overflow are rounded to nearest
            for total, own in zip(self._total, rows, strict=True):  # each product is as large as its sum
                total += own.T @ own
