"""Bias correction, strictly sequential: what quantization adds to a channel's mean is taken from its bias.

b += E[y] - E[y~], of every layer in turn, y~ being what the layer gives out after all before it are
quantized and corrected (Nagel et al. 2019, arXiv 1906.04721, section 4.2). In one go, or a few layers at a
time, corrections add up to more than there was to correct.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.calibration.runner import groups_of, value_reader
from qtool.data.samples import Samples, evenly
from qtool.graph.view import View, float_constant, is_op, sole_consumer
from qtool.numerics.qparams import F64
from qtool.plan.model import Plan
from qtool.recover.walk import Walk
from qtool.rewrite.simulate.simulated import simulated

SAMPLES = 16
# Bytes of the values of the FP32 model that are looked at together.
_VALUES = 64 << 20

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bias:
    """A constant of one value a channel that is added to what a layer makes.

    Args:
        name: of the initializer; nothing else reads it.
        result: the value that it is added to, as it is with it.
        axis: of the result, along which the channels lie.
    """

    name: str
    result: str
    axis: int


# Which input is the bias, and which axis of the output its channels lie along.
_INPUTS = {"Conv": (2, 1), "ConvTranspose": (2, 1), "Gemm": (2, -1), "LayerNormalization": (2, -1)}


def biases(view: View) -> list[Bias]:
    """The biases of a prepared model's main graph, in its order."""
    found: list[Bias] = []
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
        if array is None or value is None or sole_consumer(value) is None or not _is_whole(array, node, axis):
            continue
        found.append(Bias(value.name or "", node.outputs[0].name or "", axis))
    return found


def _is_whole(array: NDArray[np.float32], node: ir.Node, axis: int) -> bool:
    """Whether a bias has a value for each channel, and nothing else."""
    if node.op_type != "Add":
        return array.ndim <= 1 or array.shape[:-1] == (1,) * (array.ndim - 1)
    shape = node.outputs[0].shape
    wide = shape is not None and len(shape) >= max(array.ndim, 2) and shape[axis] == array.size
    return wide and array.size > 1 and array.shape[-1] == array.size


def corrected(
    model: ir.Model,
    plan: Plan,
    source: Samples,
    threads: int = 0,
    progress: Progress = lambda done, total: None,
) -> Plan:
    """A plan with corrections of all biases that have something to correct, made anew.

    Args:
        model: prepared.
        plan: resolved.
        source: of which 16 samples are taken; not those that the result is judged on.
        threads: of the runtime.
        progress: called with how many biases of how many are corrected.

    Raises:
        DataError: samples that do not fit the model.
        RuntimeFailure: the model fails on one.
    """
    plan = replace(plan, corrections={})
    todo = {bias.result: bias for bias in biases(View(model))}
    if not todo:
        return plan
    wanted = _means(model, list(todo.values()), source, threads)
    walk = Walk(simulated(model, plan), _fed(model, source, threads), threads)
    found: dict[str, tuple[float, ...]] = {}
    for done, (name, arrays) in enumerate(walk.to(todo.keys()), start=1):
        bias = todo[name]
        now = _Mean(bias.axis)
        for array in arrays:
            now.add(array)
        offset = np.asarray(wanted[name] - now.value(), np.float32)
        if np.isfinite(offset).all() and offset.any():
            for array in arrays:
                np.moveaxis(array, bias.axis, -1)[...] += offset
            found[bias.name] = tuple(map(float, offset))
        progress(done, len(todo))
    return replace(plan, corrections=found)


def _fed(model: ir.Model, source: Samples, threads: int) -> list[dict[str, np.ndarray]]:
    """The samples that walk, as the model is fed with them."""
    names = [v.name or "" for v in model.graph.inputs]
    with value_reader(model, names, threads, "the model that samples are made to fit") as look:
        picked = source.read(evenly(len(source), SAMPLES))
        return [dict(zip(names, look(sample, source.name), strict=True)) for sample in picked]


@dataclass
class _Mean:
    """Of each channel, over arrays whose channels lie along one axis: [C] float64."""

    axis: int
    total: F64 | float = 0.0
    count: int = 0

    def add(self, array: NDArray[np.floating]) -> None:
        flat = np.moveaxis(array, self.axis, -1).reshape(-1, array.shape[self.axis])
        self.total = self.total + flat.sum(axis=0, dtype=np.float64)
        self.count += len(flat)

    def value(self) -> F64:
        return np.asarray(self.total) / max(self.count, 1)


def _means(model: ir.Model, todo: Sequence[Bias], source: Samples, threads: int) -> Mapping[str, F64]:
    """The means of the FP32 model, over the same samples."""
    means = {bias.result: _Mean(bias.axis) for bias in todo}
    for group in groups_of(model, list(means), source, _VALUES, threads):
        with value_reader(model, group, threads, "the model whose means are taken") as look:
            for sample in source.read(evenly(len(source), SAMPLES)):
                for name, array in zip(group, look(sample, source.name), strict=True):
                    means[name].add(array)
    return {name: mean.value() for name, mean in means.items()}
