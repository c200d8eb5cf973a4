"""Faults of a scale: too wide or too narrow for its values, or another one than the weight's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtool.evaluate.analysis.subject import Subject
from qtool.evaluate.analysis.values import Grid, Statistics
from qtool.graph.view import float_constant
from qtool.numerics.qparams import midpoint
from qtool.plan.read_back.inputs import Stored
from qtool.tables.qtypes import QTYPES

# Samples for ranges and samples to analyze differ by less than this.
_TOO_WIDE = 5.0
# Channels below this part of the largest one.
_FAINT = 0.1
# Share of the values beyond a grid that no range estimator gives up.
_CLIPPED = 0.01
# A scale of an eighth leaves half of the values beyond the grid.
_CLIPPED_WEIGHT = 8.0
# A weight keeps its size when it is rounded, even to 2 bits.
_LARGER, _SMALLER = 1.5, 0.6
# A weight may also be too small because the scale of its activation is too large.
_SMALL = 0.9
# A bias that a wrong scale multiplies is no corrected one: what is left without that factor.
_REST = 0.1


@dataclass(frozen=True)
class Fault:
    """A fault of a scale.

    Args:
        text: in plain words.
        severity: by which faults are ordered: the factor in powers of two.
    """

    text: str
    severity: float


def activation_fault(statistics: Statistics, grid: Grid, fixed: float) -> Fault | None:
    """Return the fault of an activation's scale; None without one.

    Args:
        statistics: of its values.
        grid: from the file.
        fixed: the largest magnitude that its op can compute, such as 1 of a Softmax, whose grid is fixed;
            0: none.
    """
    if math.isnan(grid.scale) or not statistics.count:
        return None
    largest = max(abs(statistics.low), abs(statistics.high), fixed)
    reach = max(abs(grid.low), abs(grid.high))
    if largest > 0 and reach > _TOO_WIDE * largest:
        return Fault(
            f"the grid is {reach / largest:.1f} times as wide as the values", math.log2(reach / largest)
        )
    clipped = statistics.clipped / statistics.count
    if clipped > _CLIPPED:
        return Fault(f"{100 * clipped:.1f}% of the values are beyond the grid", _CLIPPED_WEIGHT * clipped)
    return None


def weight_fault(array: NDArray[np.float32], stored: Stored) -> Fault | None:
    """Return the fault of a weight's scale; None without one."""
    factor = size_factor(array, stored.array)
    if factor > _LARGER or factor < _SMALLER:
        severity = abs(math.log2(max(factor, 1e-9)))
        return Fault(f"it is {factor:.2g} times FP32's weight", severity if factor > 1 else severity * _SMALL)
    if (worst := _worst_channel(array, stored)) is not None:
        return worst
    qtype = QTYPES.get(stored.qtype)
    if stored.steps is None or qtype is None or stored.steps.size not in (1, *array.shape):
        return None
    others = tuple(i for i, n in enumerate(stored.steps.shape) if n == 1)
    largest = np.abs(array).max(axis=others if stored.steps.ndim else None, keepdims=bool(stored.steps.ndim))
    levels = max(qtype.qmax - midpoint(qtype), 1)
    # The scale of a faint channel is the one that its bias needs.
    loud = largest > _FAINT * float(np.max(largest, initial=0.0))
    ratios = np.divide(stored.steps * levels, largest, out=np.zeros_like(stored.steps), where=loud)
    ratio = float(np.max(ratios))
    return (
        Fault(f"the scale is {ratio:.1f} times that of its values", math.log2(ratio))
        if ratio > _TOO_WIDE
        else None
    )


def _worst_channel(array: NDArray[np.float32], stored: Stored) -> Fault | None:
    """Return the fault of one channel with a scale of its own; None without one."""
    if stored.steps is None or stored.steps.ndim != array.ndim or stored.steps.size not in array.shape:
        return None
    others = tuple(i for i, n in enumerate(stored.steps.shape) if n == 1)
    power = np.square(array, dtype=np.float64).sum(axis=others)
    product = np.multiply(array, stored.array, dtype=np.float64).sum(axis=others)
    factors = np.divide(product, power, out=np.ones_like(power), where=power > 0)
    index = int(np.argmax(np.abs(np.log(np.maximum(factors, 1e-6)))))
    factor = float(factors.reshape(-1)[index])
    return (
        Fault(f"channel {index} is {factor:.2g} times FP32's", math.log2(factor))
        if factor > _LARGER
        else None
    )


def size_factor(array: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the factor that makes the best fit of an array to another; 1 for zeros."""
    power = float(np.square(array, dtype=np.float64).sum())
    return float(np.multiply(array, other, dtype=np.float64).sum() / power) if power else 1.0


def faulty_biases(subject: Subject, problems: Mapping[str, Fault]) -> dict[str, str]:
    """Return bias -> the tensor whose scale makes it wrong.

    The int32 bias of an integer operator has the product of two scales: with one of them wrong, so is the
    bias. A corrected bias differs from FP32's, too, but not by a factor.

    Args:
        subject: a model that was read back.
        problems: tensor -> the fault of its scale.
    """
    faulty: dict[str, str] = {}
    for name, stored in subject.biases.items():
        array = float_constant(subject.view.values[name])
        if array is None or not np.any(array):
            continue
        factor = size_factor(array, stored.array)
        rest = float(np.square(stored.array - factor * array, dtype=np.float64).sum())
        power = float(np.square(stored.array, dtype=np.float64).sum())
        if _SMALLER < factor < _LARGER or rest > _REST * power:
            continue
        readers = {use.node.name for use in subject.view.values[name].uses()}
        for key, sites in subject.tensors.items():
            used = {node for site in sites for node, _ in subject.uses(site)}
            if used & readers and problems.get(key):
                faulty[name] = key
                break
    return faulty
