"""Which tensors are observed together, where all of them at once would not fit memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import onnx_ir as ir

from qtool.data.fit import fit
from qtool.data.samples import Samples
from qtool.graph.save import model_for_session
from qtool.runtime.session import Session, running

# What an observed element takes: in the runtime, and where it is given out to.
_BYTES = 8


def groups_of(
    model: ir.Model, values: Sequence[str], source: Samples, memory: int | None, threads: int
) -> list[list[str]]:
    """The values in groups, each of which takes no more than `memory` bytes; one at least in each.

    Sizes are those of the first sample, which is run once more for it where the model does not say them.
    """
    if memory is None or not values:
        return [list(values)]
    sizes = _sizes(model, values, source, threads)
    groups: list[list[str]] = []
    room = 0.0
    for value in values:
        needed = sizes.get(value, 0) * _BYTES
        if not groups or needed > room:
            groups.append([])
            room = memory
        groups[-1].append(value)
        room -= needed
    return groups


def _sizes(model: ir.Model, values: Sequence[str], source: Samples, threads: int) -> Mapping[str, int]:
    """How many elements each value has."""
    known = {v.name: v.shape for node in model.graph for v in node.outputs} | {
        v.name: v.shape for v in model.graph.inputs
    }
    static = {
        v: math.prod(int(axis) for axis in shape if isinstance(axis, int))
        for v in values
        if (shape := known.get(v)) is not None and all(isinstance(axis, int) for axis in shape)
    }
    rest = [v for v in values if v not in static and v not in {i.name for i in model.graph.inputs}]
    return {**static, **_measured(model, rest, source, threads)} if rest else static


def _measured(model: ir.Model, values: Sequence[str], source: Samples, threads: int) -> dict[str, int]:
    """The sizes that the first sample gives, without giving out the tensors."""
    clone = model.clone()
    found = {v.name: v for node in clone.graph for v in node.outputs}
    names = {v: f"{v}/size" for v in values}
    outputs = []
    for value, name in names.items():
        node = ir.node("Size", [found[value]])
        size = node.outputs[0]
        size.name, size.type, size.shape = name, ir.TensorType(ir.DataType.INT64), ir.Shape([])
        clone.graph.append(node)
        outputs.append(size)
    clone.graph.outputs[:] = outputs
    with model_for_session(clone) as loadable:
        session = Session(loadable, threads=threads, name="calibration model")
        for sample in islice(source.read(frozenset({0})), 1):
            inputs = fit(sample, session.inputs, session.input_dtypes, source.name)
            with running(session):
                sizes = session.run(inputs, list(names.values()))
            return {v: int(size) for v, size in zip(values, sizes, strict=True)}
    return {}
