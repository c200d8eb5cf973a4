"""Repair models that the checker refuses and the runtime accepts: shapes, imports, old group norms.

Exporters and tools leave stale shapes in a model. The runtime infers its own instead. So the model is
repaired and checked again, and the report warns of the repair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import onnx
from onnx import TensorProto, helper

from qtool.errors import printable
from qtool.graph.limits import Survey

# Versions that onnxruntime (1.31) takes for domains that are used and not imported. Of ai.onnx.ml it takes
# a newer one, in which it still knows all that was there in 3.
_IMPORTED = {"com.microsoft": 1, "ai.onnx.ml": 3}
# The first IR version in which an initializer need not be an input.
_FREE_INITIALIZERS = 4
# The opsets whose GroupNormalization has one scale and bias a group; 21 has one a channel.
_GROUP_SCALES = range(18, 21)
_RMS_NORM = "SimplifiedLayerNormalization"
_AXES_AS_INPUT = 18  # the opset from which on ReduceMean takes its axes as an input
# The checker infers shapes without larger constants.
_SHOWN_BYTES = 1000
# The numbers of axes to try, and the number of inputs to try them on.
_AXES, _MOST_INPUTS = range(7), 8
# The checker gets an input without a shape as the output of an op of this unknown domain.
_UNKNOWN_DOMAIN = "qtool.unknown"


def repair(proto: onnx.ModelProto, contents: Survey) -> tuple[str, ...]:
    """Repair a model that the full check refuses, in place, until the check passes.

    1. Domains that are used and not imported are imported, where the runtime does so too.
    2. Below IR version 4, with initializers that are no inputs, which quantizers add, the version becomes 4.
    3. GroupNormalization of opset 18 to 20 is deprecated: its ops are written out.
    4. onnxruntime's SimplifiedLayerNormalization without a domain: its ops are written out.
    5. A size below 0 becomes an unknown size.
    6. Recorded shapes of inner values are removed.
    7. An output's shape that contradicts the inferred one is replaced by it.
    8. A missing shape is inferred: of an output; of an input, where only one number of axes fits. A shape
       that stays missing is no error here: `require_shapes` refuses it where a model is written.

    Args:
        proto: a model.
        contents: its contents.

    Returns:
        the repairs, to warn of.

    Raises:
        ValueError: the checker's message where it still refuses the model.
    """
    notes: list[str] = []
    _write_out_axes(contents)
    complaint = _complaint(proto)
    for attempt in (
        _import_domains,
        _raise_ir_version,
        _write_out_group_norms,
        _write_out_rms_norms,
        _forget_negatives,
        _forget_inner,
        _overrule_outputs,
    ):
        if not complaint:
            break
        if note := attempt(proto, contents):
            notes.append(note)
            complaint = _complaint(proto)
    if complaint:
        raise ValueError(complaint)
    return (*notes, *_missing(proto))


def _complaint(proto: onnx.ModelProto) -> str:
    """Return the message of the full check; '' where it passes."""
    try:
        onnx.checker.check_model(_shown(proto), full_check=True)
    except MemoryError:
        raise
    except Exception as error:  # ValidationError, InferenceError, or RuntimeError from the C++ side
        return str(error) or type(error).__name__
    return ""


def _shown(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy for the checker: large constants are inputs; values without a shape are hidden (8)."""
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
            graph.node.insert(0, helper.make_node("Input", [], [value.name], domain=_UNKNOWN_DOMAIN))
    _keep(graph.input, lambda i: not _lacks_shape(i))
    _keep(graph.output, lambda o: o.HasField("type") and not _lacks_shape(o))
    copy.opset_import.append(helper.make_opsetid(_UNKNOWN_DOMAIN, 1))
    return copy


def _large(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == TensorProto.EXTERNAL or tensor.ByteSize() > _SHOWN_BYTES


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Remove the unwanted items of a repeated field."""
    for index in reversed([i for i, item in enumerate(field) if not wanted(item)]):
        del field[index]


def _lacks_shape(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _write_out_axes(contents: Survey) -> None:
    """Write out a default that onnx (1.23) ignores where it infers through the function of the op."""
    for node in (n for g in contents.graphs for n in g.node if n.op_type == "MeanVarianceNormalization"):
        if not any(a.name == "axes" for a in node.attribute):
            node.attribute.append(helper.make_attribute("axes", [0, 2, 3]))


def _import_domains(proto: onnx.ModelProto, contents: Survey) -> str:
    imported = {i.domain for i in proto.opset_import}
    missing = sorted(d for d in contents.domains - imported if d in _IMPORTED)
    for domain in missing:
        proto.opset_import.append(helper.make_opsetid(domain, _IMPORTED[domain]))
    return f"the model does not import {', '.join(missing)}, which it uses" if missing else ""


def _raise_ir_version(proto: onnx.ModelProto, contents: Survey) -> str:
    inputs = [({i.name for i in g.input}, g) for g in contents.graphs]
    free = [t.name for names, g in inputs for t in g.initializer if t.name not in names]
    if not free or proto.ir_version >= _FREE_INITIALIZERS:
        return ""
    old, proto.ir_version = proto.ir_version, _FREE_INITIALIZERS
    name = printable(free[0], 80)
    return f"IR version {old} has no initializers beside the inputs, such as '{name}': read as 4"


def _write_out_group_norms(proto: onnx.ModelProto, contents: Survey) -> str:
    """Replace GroupNormalization with one scale and bias a group by InstanceNormalization of the groups."""
    if (opset := _opset(proto)) not in _GROUP_SCALES:
        return ""
    replaced = _replace_nodes(contents, lambda graph, node: _of_groups(node))
    return f"GroupNormalization of opset {opset} is deprecated: its ops are written out" if replaced else ""


def _opset(proto: onnx.ModelProto) -> int:
    return max((i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")), default=0)


def _replace_nodes(
    contents: Survey, new_of: Callable[[onnx.GraphProto, onnx.NodeProto], list[onnx.NodeProto]]
) -> int:
    """Put new nodes in the place of each node that has some; return how many nodes have."""
    count = 0
    for graph in contents.graphs:
        for index in reversed(range(len(graph.node))):
            new = new_of(graph, graph.node[index])
            for node in reversed(new[:-1]):
                graph.node.insert(index, node)
            if new:
                graph.node[index + len(new) - 1].CopyFrom(new[-1])
                count += 1
    return count


def _of_groups(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes of a GroupNormalization of x [N, C, ..], which is normalized as [N, groups, rest]."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    valid = len(node.input) == 3 and len(node.output) == 1 and "num_groups" in attributes
    if node.op_type != "GroupNormalization" or node.domain not in ("", "ai.onnx") or not valid:
        return []
    (x, scale, bias), base = node.input, f"{node.output[0]}_groups"
    shape = helper.make_tensor(f"{base}_shape", TensorProto.INT64, [3], [0, attributes["num_groups"], -1])
    epsilon = attributes.get("epsilon", 1e-5)
    return [
        helper.make_node("Constant", [], [f"{base}_shape"], f"{base}_constant", value=shape),
        helper.make_node("Reshape", [x, f"{base}_shape"], [base], f"{base}_reshape"),
        helper.make_node(
            "InstanceNormalization", [base, scale, bias], [f"{base}_norm"], node.name, epsilon=epsilon
        ),
        helper.make_node("Shape", [x], [f"{base}_old"], f"{base}_shape_of_x"),
        helper.make_node("Reshape", [f"{base}_norm", f"{base}_old"], list(node.output), f"{base}_back"),
    ]


def _write_out_rms_norms(proto: onnx.ModelProto, contents: Survey) -> str:
    """Replace onnxruntime's SimplifiedLayerNormalization, which its tools write without a domain, by its ops.

    The runtime fuses them again.
    """
    replaced = _replace_nodes(contents, partial(_of_root_mean_square, opset=_opset(proto)))
    return f"{_RMS_NORM} is no op of ONNX: its ops are written out" if replaced else ""


def _of_root_mean_square(graph: onnx.GraphProto, node: onnx.NodeProto, opset: int) -> list[onnx.NodeProto]:
    """Return the nodes of a SimplifiedLayerNormalization: x / sqrt(mean(x^2) + epsilon) * scale."""
    valid = len(node.input) == 2 and len(node.output) == 1
    if node.op_type != _RMS_NORM or node.domain not in ("", "ai.onnx") or not valid:
        return []
    types = {t.name: t.data_type for t in graph.initializer}
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    (x, scale), base = node.input, f"{node.output[0]}_rms"
    if scale not in types or attributes.get("axis", -1) != -1:
        return []

    def constant(name: str, kind: int, dims: list[int], value: float) -> onnx.NodeProto:
        made = helper.make_tensor(f"{base}_{name}", kind, dims, [value])
        return helper.make_node("Constant", [], [f"{base}_{name}"], f"{base}_{name}_constant", value=made)

    mean = helper.make_node("ReduceMean", [f"{base}_squares"], [f"{base}_mean"], f"{base}_mean")
    if opset < _AXES_AS_INPUT:
        mean.attribute.append(helper.make_attribute("axes", [-1]))
    else:
        mean.input.append(f"{base}_axes")
    return [
        constant("two", types[scale], [], 2.0),
        constant("epsilon", types[scale], [], attributes.get("epsilon", 1e-5)),
        *([constant("axes", TensorProto.INT64, [1], -1)] if opset >= _AXES_AS_INPUT else []),
        helper.make_node("Pow", [x, f"{base}_two"], [f"{base}_squares"], f"{base}_pow"),
        mean,
        helper.make_node("Add", [f"{base}_mean", f"{base}_epsilon"], [f"{base}_sum"], f"{base}_add"),
        helper.make_node("Sqrt", [f"{base}_sum"], [base], f"{base}_sqrt"),
        helper.make_node("Div", [x, base], [f"{base}_norm"], f"{base}_div"),
        helper.make_node("Mul", [f"{base}_norm", scale], list(node.output), node.name),
    ]


def _forget_negatives(proto: onnx.ModelProto, contents: Survey) -> str:
    values = [v for g in contents.graphs for v in (*g.input, *g.output)]
    dims = [d for v in values for d in v.type.tensor_type.shape.dim if d.dim_value < 0]
    for dim in dims:
        dim.Clear()
    return "its shapes have sizes below 0, which are taken for unknown" if dims else ""


def _forget_inner(proto: onnx.ModelProto, contents: Survey) -> str:
    recorded = 0
    for graph in contents.graphs:
        recorded += len(graph.value_info)
        del graph.value_info[:]
        for value in graph.output if graph is not contents.graphs[0] else ():
            recorded += value.type.tensor_type.HasField("shape")
            value.type.tensor_type.ClearField("shape")
    return "recorded shapes of inner values contradict the inferred ones, and are ignored" if recorded else ""


def _overrule_outputs(proto: onnx.ModelProto, contents: Survey) -> str:
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for output in bare.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    inferred = _infer(bare)
    wrong = [o for o in proto.graph.output if _contradict(o.type, inferred.get(o.name))]
    for output in wrong:
        output.type.tensor_type.shape.CopyFrom(inferred[output.name].tensor_type.shape)
    return _warning(wrong, "output", "has another shape than the inferred one, which is used")


def _missing(proto: onnx.ModelProto) -> list[str]:
    """Infer missing shapes of inputs and outputs, and return warnings."""
    inputs = [i for i in proto.graph.input if _lacks_shape(i)]
    if inputs:
        del proto.graph.value_info[:]  # a stale shape there would contradict almost any number of axes
    for value in inputs[:_MOST_INPUTS]:
        _set_axes(proto, value)
    outputs = [o for o in proto.graph.output if not o.HasField("type") or _lacks_shape(o)]
    inferred = _infer(proto) if outputs else {}
    for output in outputs:
        if output.name in inferred:
            output.type.CopyFrom(inferred[output.name])
    told = [_warning(inputs, "input", "has no shape"), _warning(outputs, "output", "has no shape")]
    return [note for note in told if note]


def _set_axes(proto: onnx.ModelProto, value: onnx.ValueInfoProto) -> None:
    """Give an input the only number of axes, of unknown sizes, that passes the check, if there is one."""
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
    """Return the inferred types of the main graph's values that have a shape."""
    try:
        graph = onnx.shape_inference.infer_shapes(_shown(proto), data_prop=True).graph
    except Exception:  # also out of memory, on absurd sizes; the checker reports those
        return {}
    types = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
    return {name: kind for name, kind in types.items() if kind.tensor_type.HasField("shape")}


def _contradict(one: onnx.TypeProto, other: onnx.TypeProto | None) -> bool:
    """Return whether two types have contradictory shapes."""
    if other is None or not one.tensor_type.HasField("shape"):
        return False
    a, b = one.tensor_type.shape.dim, other.tensor_type.shape.dim
    return len(a) != len(b) or any(
        x.HasField("dim_value") and y.HasField("dim_value") and x.dim_value != y.dim_value
        for x, y in zip(a, b, strict=True)
    )


def _warning(values: Iterable[onnx.ValueInfoProto], what: str, problem: str) -> str:
    names = [f"'{printable(v.name, 80)}'" for v in values]
    more = f" (and {len(names) - 1} more)" if names[1:] else ""
    return f"{what} {names[0]}{more} {problem}" if names else ""
