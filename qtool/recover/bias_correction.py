"""Bias correction: subtract the shift of each channel's mean that quantization causes from the bias.

b += E[y] - E[y~], layer by layer, where y~ is the output with all earlier layers quantized and corrected
(Nagel et al. 2019, arXiv 1906.04721, section 4.2). Correcting several layers at once corrects the same shift
twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.runner import value_reader
from qtool.data.samples import Samples, evenly
from qtool.graph.view import View, float_constant, is_op, sole_consumer
from qtool.numerics.qparams import F64
from qtool.plan.model import Plan
from qtool.recover.inner_values import Walk, observe
from qtool.rewrite.simulate.simulated import simulated
from qtool.runtime.heartbeat import StepProgress, no_progress

SAMPLES = 16


@dataclass(frozen=True)
class Bias:
    """A constant with one value for each channel, added to the output of a layer.

    Args:
        name: of the initializer; no other node reads it.
        result: the layer's output with the bias.
        axis: of the channels in the result.
    """

    name: str
    result: str
    axis: int


# The input that is the bias, and the axis of its channels in the output.
_INPUTS = {"Conv": (2, 1), "ConvTranspose": (2, 1), "Gemm": (2, -1), "LayerNormalization": (2, -1)}


def find_biases(view: View) -> list[Bias]:
    """Return the biases of a prepared model's main graph, in its order."""
    biases: list[Bias] = []
    for node in view.main_nodes:
        if is_op(node, *_INPUTS):
            index, axis = _INPUTS[node.op_type]
            value = node.inputs[index] if index < len(node.inputs) else None
        elif is_op(node, "Add"):
            value = next((v for v in node.inputs if float_constant(v) is not None), None)
            axis = -1
        else:
            continue
        array = float_constant(value)
        if (
            array is None
            or value is None
            or sole_consumer(value) is None
            or not _has_all_channels(array, node, axis)
        ):
            continue
        biases.append(Bias(value.name or "", node.outputs[0].name or "", axis))
    return biases


def _has_all_channels(array: NDArray[np.float32], node: ir.Node, axis: int) -> bool:
    """Whether a bias has one value for each channel."""
    if node.op_type != "Add":
        return array.ndim <= 1 or array.shape[:-1] == (1,) * (array.ndim - 1)
    shape = node.outputs[0].shape
    wide = shape is not None and len(shape) >= max(array.ndim, 2) and shape[axis] == array.size
    return wide and array.size > 1 and array.shape[-1] == array.size


def bias_correction(
    view: View,
    plan: Plan,
    source: Samples,
    threads: int = 0,
    progress: StepProgress = no_progress,
) -> Plan:
    """Return a plan with corrections of all biases, in place of those it has.

    Args:
        view: of the prepared model.
        plan: resolved.
        source: samples for the means; 16 are run.
        threads: of the runtime.
        progress: called with the biases done and the biases in all.

    Raises:
        DataError: a sample does not fit the model.
        RuntimeFailure: the model fails on a sample.
    """
    plan = replace(plan, corrections={})
    model = view.model
    biases = {bias.result: bias for bias in find_biases(view)}
    if not biases:
        return plan
    wanted = view.once(
        ("means at biases", source.name, len(source)),
        lambda: _float_means(model, list(biases.values()), source, threads),
    )
    walk = Walk(simulated(model, plan), _inputs(model, source, threads), threads)
    corrections: dict[str, tuple[float, ...]] = {}
    for done, (name, arrays) in enumerate(walk.to(biases.keys()), start=1):
        bias = biases[name]
        now = _Mean(bias.axis)
        for array in arrays:
            now.add(array)
        offset = np.asarray(wanted[name] - now.value(), np.float32)
        if np.isfinite(offset).all() and offset.any():
            for array in arrays:
                np.moveaxis(array, bias.axis, -1)[...] += offset
            corrections[bias.name] = tuple(map(float, offset))
        progress(done, len(biases))
    return replace(plan, corrections=corrections)


def _inputs(model: ir.Model, source: Samples, threads: int) -> list[dict[str, np.ndarray]]:
    """The samples as inputs of the model."""
    names = [v.name or "" for v in model.graph.inputs]
    with value_reader(model, names, threads, "the model that samples are fitted to") as look:
        chosen = source.read(evenly(len(source), SAMPLES))
        return [dict(zip(names, look(sample, source.name), strict=True)) for sample in chosen]


@dataclass
class _Mean:
    """The mean of each channel over arrays: float64 [C]."""

    axis: int
    total: F64 | float = 0.0
    count: int = 0

    def add(self, array: NDArray[np.floating]) -> None:
        flat = np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis])
        self.total = self.total + flat.sum(axis=0, dtype=np.float64)
        self.count += len(flat)

    def value(self) -> F64:
        return np.asarray(self.total) / max(self.count, 1)


def _float_means(model: ir.Model, biases: Sequence[Bias], source: Samples, threads: int) -> Mapping[str, F64]:
    """The means of the FP32 model, over the same samples."""
    means = {bias.result: _Mean(bias.axis) for bias in biases}
    for name, array in observe(model, list(means), source, SAMPLES, threads):
        means[name].add(array)
    return {name: mean.value() for name, mean in means.items()}
