"""What the checker refuses and the runtime accepts: missing or wrong shapes, missing imports.

Recorded shapes are notes that exporters and tools leave behind, and forget. The runtime infers its own and
overrules them. So the model is mended, the checker looks again, and the report says what was done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import onnx
from onnx import TensorProto, helper

from qtool.errors import printable
from qtool.graph.caps import Survey

# Versions that onnxruntime (1.31) takes for domains that are used and not imported. Of ai.onnx.ml it takes
# a newer one, in which it still knows all that was there in 3.
_IMPORTED = {"com.microsoft": 1, "ai.onnx.ml": 3}
# Larger constants need not be there for the checker to infer shapes.
_SHOWN_BYTES = 1000
# Numbers of axes that are tried, and inputs that are worth trying them on.
_AXES, _MOST_INPUTS = range(7), 8
# An input without a shape is shown to the checker as the output of an op that nobody knows.
_NOBODY = "qtool.nobody"


def repair(proto: onnx.ModelProto, found: Survey) -> tuple[str, ...]:
    """Mend a model that the full check refuses, in place, and no more of it than makes the check pass.

    1. Domains that are used and not imported are imported, where the runtime does so too.
    2. A size below 0 becomes an unknown size.
    3. What is recorded of inner values is left out.
    4. What contradicts it in an output's shape gives way to what is inferred.
    5. A missing shape is what is inferred: of an output; of an input, where only one number of axes fits.
       What stays without one is nothing to refuse here: only who writes a model must have it.

    Args:
        proto: a model.
        found: what is in it.

    Returns:
        what was mended, to warn about.

    Raises:
        ValueError: what the checker still says.
    """
    notes: list[str] = []
    _write_out_axes(found)
    complaint = _complaint(proto)
    for mend in (_import_domains, _forget_negatives, _forget_inner, _overrule_outputs):
        if not complaint:
            break
        if note := mend(proto, found):
            notes.append(note)
            complaint = _complaint(proto)
    if complaint:
        raise ValueError(complaint)
    return (*notes, *_missing(proto))


def _complaint(proto: onnx.ModelProto) -> str:
    """What the full check says; '' when it passes."""
    try:
        onnx.checker.check_model(_shown(proto), full_check=True)
    except MemoryError:
        raise
    except Exception as error:  # ValidationError, InferenceError, or RuntimeError from the C++ side
        return str(error) or type(error).__name__
    return ""


def _shown(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that the checker takes in memory: large constants are inputs; see 5 for what has no shape."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph = copy.graph
    fed = {i.name for i in graph.input}
    for tensor in graph.initializer:
        if _large(tensor) and tensor.name not in fed:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    _keep(graph.initializer, lambda t: not _large(t))
    for value in graph.input:
        if _lacks_shape(value):
            graph.node.insert(0, helper.make_node("Input", [], [value.name], domain=_NOBODY))
    _keep(graph.input, lambda i: not _lacks_shape(i))
    _keep(graph.output, lambda o: o.HasField("type") and not _lacks_shape(o))
    copy.opset_import.append(helper.make_opsetid(_NOBODY, 1))
    return copy


def _large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or tensor.ByteSize() > _SHOWN_BYTES


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Take out of a repeated field what is not wanted."""
    for index in reversed([i for i, item in enumerate(field) if not wanted(item)]):
        del field[index]


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _write_out_axes(found: Survey) -> None:
    """Write out a default that onnx (1.23) forgets when it infers through the function that the op is."""
    for node in (n for g in found.graphs for n in g.node if n.op_type == "MeanVarianceNormalization"):
        if not any(a.name == "axes" for a in node.attribute):
            node.attribute.append(helper.make_attribute("axes", [0, 2, 3]))


def _import_domains(proto: onnx.ModelProto, found: Survey) -> str:
    known = {i.domain for i in proto.opset_import}
    missing = sorted(d for d in found.domains - known if d in _IMPORTED)
    for domain in missing:
        proto.opset_import.append(helper.make_opsetid(domain, _IMPORTED[domain]))
    return f"the model does not import {', '.join(missing)}, which it uses" if missing else ""


def _forget_negatives(proto: onnx.ModelProto, found: Survey) -> str:
    values = [v for g in found.graphs for v in (*g.input, *g.output)]
    dims = [d for v in values for d in v.type.tensor_type.shape.dim if d.dim_value < 0]
    for dim in dims:
        dim.Clear()
    return "sizes below 0 among its shapes are taken for unknown" if dims else ""


def _forget_inner(proto: onnx.ModelProto, found: Survey) -> str:
    recorded = 0
    for graph in found.graphs:
        recorded += len(graph.value_info)
        del graph.value_info[:]
        for value in graph.output if graph is not found.graphs[0] else ():
            recorded += value.type.tensor_type.HasField("shape")
            value.type.tensor_type.ClearField("shape")
    return "recorded shapes of inner values contradict what is computed, and are ignored" if recorded else ""


def _overrule_outputs(proto: onnx.ModelProto, found: Survey) -> str:
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for output in bare.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    inferred = _infer(bare)
    wrong = [o for o in proto.graph.output if _contradict(o.type, inferred.get(o.name))]
    for output in wrong:
        output.type.tensor_type.shape.CopyFrom(inferred[output.name].tensor_type.shape)
    return _told(wrong, "output", "has another shape than what is computed, which counts")


def _missing(proto: onnx.ModelProto) -> list[str]:
    """Give what has no shape one, where that can be told."""
    inputs = [i for i in proto.graph.input if _lacks_shape(i)]
    if inputs:
        del proto.graph.value_info[:]  # as good as any number of axes would contradict what is stale there
    for value in inputs[:_MOST_INPUTS]:
        _set_axes(proto, value)
    outputs = [o for o in proto.graph.output if not o.HasField("type") or _lacks_shape(o)]
    inferred = _infer(proto) if outputs else {}
    for output in outputs:
        if output.name in inferred:
            output.type.CopyFrom(inferred[output.name])
    told = [_told(inputs, "input", "has no shape"), _told(outputs, "output", "has no shape")]
    return [note for note in told if note]


def _set_axes(proto: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    """Give an input the only number of axes, of unknown sizes, that the checker can do with, if any."""
    shape = value.type.tensor_type.shape
    fitting = []
    for axes in _AXES:
        shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension()] * axes))
        if not _complaint(proto):
            fitting.append(axes)
    if len(fitting) == 1:
        shape.CopyFrom(onnx.TensorShapeProto(dim=[onnx.TensorShapeProto.Dimension()] * fitting[0]))
    else:
        value.type.tensor_type.ClearField("shape")


def _infer(proto: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """The types of what the main graph computes, as far as they can be inferred, shapes included."""
    try:
        graph = onnx.shape_inference.infer_shapes(_shown(proto), data_prop=True).graph
    except Exception:  # out of memory on absurd sizes, too; the checker has more to say
        return {}
    found = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
    return {name: kind for name, kind in found.items() if kind.tensor_type.HasField("shape")}


def _contradict(one: onnx.TypeProto, other: onnx.TypeProto | None) -> bool:
    """Whether two types have shapes that can't be those of one tensor."""
    if other is None or not one.tensor_type.HasField("shape"):
        return False
    a, b = one.tensor_type.shape.dim, other.tensor_type.shape.dim
    return len(a) != len(b) or any(
        x.HasField("dim_value") and y.HasField("dim_value") and x.dim_value != y.dim_value
        for x, y in zip(a, b, strict=True)
    )


def _told(values: Iterable[onnx.ValueInfoProto], what: str, problem: str) -> str:
    names = [f"'{printable(v.name, 80)}'" for v in values]
    more = f" (and {len(names) - 1} more)" if names[1:] else ""
    return f"{what} {names[0]}{more} {problem}" if names else ""
