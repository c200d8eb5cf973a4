"""The opset: raised to the lowest that the quantized forms need, if it is lower.

It is lowered where the runtime has no QuantizeLinear of the source's opset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from qtool.errors import ModelError, is_out_of_memory, out_of_memory, printable
from qtool.graph.view import constant, is_op, opset_of

# QuantizeLinear and DequantizeLinear take an axis since 13.
QDQ_OPSET = 13
QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")
Runs = Callable[[str, int], bool]
"""(op, opset) -> whether the runtime has the op as that opset defines it."""
# Ops that the converter (1.23) does not convert: op -> the opset in which it changed, and its old meaning.
_FORGOTTEN = {
    "Scan": (9, "has a batch axis there"),
    "Hardmax": (13, "takes its axis and all later ones as one there"),
}
# Before this opset, Resize (and Upsample) had only one way to compute coordinates.
_FIRST_WITH_COORDINATES = 11
# Larger weights are left out of the copy that is checked after the opset was lowered.
_CHECKED_BYTES = 1 << 10


def runs_all(op: str, opset: int) -> bool:
    """Return True: the runtime has every op of every opset."""
    return True


def settle_opset(model: ir.Model, least: int, needed: Sequence[str], runs: Runs) -> str:
    """Raise the opset to `least` if it is lower; lower it if the runtime lacks a needed op of that opset.

    Args:
        model: changed in place.
        least: the lowest opset that the quantized forms need.
        needed: the ops that quantizing will insert.
        runs: whether the runtime has an op.

    Raises:
        ModelError: the runtime lacks a needed op, and the model can't be converted to a lower opset.
    """
    version = opset_of(model)
    if version < least or all(runs(op, version) for op in needed):
        return upgrade_opset(model, least, runs)
    if version > onnx.defs.onnx_opset_version():
        return ""  # an opset that onnx does not know: the runtime accepts or refuses it
    return _lower(model, least, needed, runs)


def upgrade_opset(model: ir.Model, least: int = QDQ_OPSET, runs: Runs = runs_all) -> str:
    """Raise the opset by onnx's version converter.

    A model that it can't convert keeps its opset: weights can still be stored as int8 there, and the draft
    gives the reason for the rest.
    """
    version = opset_of(model)
    if not {"", "ai.onnx"} & model.opset_imports.keys():
        # There is no node of the standard domain to convert, but QuantizeLinear may be inserted.
        model.opset_imports[""] = version = least
    if version >= least:
        _raise_ir_version(model, version)
        return ""
    if reason := _keeping(model, version, least, runs):
        return f"opset {version} kept: {reason}"
    try:
        converted = _converted(model, least)
        if version < _FIRST_WITH_COORDINATES <= least:
            _settle_coordinates(converted)
    except Exception as error:  # the converter raises RuntimeError, or protobuf's own
        if is_out_of_memory(error):
            raise out_of_memory("model", f"it is converted to opset {least}") from error
        return f"opset {version} kept: the version converter failed ({printable(str(error), 120)})"
    if [v.name for v in converted.graph.outputs] != [v.name for v in model.graph.outputs]:
        raise ModelError(f"opset {version}: the version converter changed the model's outputs")
    _replace(model, converted)
    _raise_ir_version(model, least)
    return f"opset {version} -> {least}"


def _converted(model: ir.Model, version: int) -> ir.Model:
    """Return a model in another opset, by onnx's converter.

    Large weights stay out of the converter, whose models are protobufs of less than 2 GiB: it sees only their
    places in a file, and keeps these.
    """
    clone, kept = model.clone(), dict[str, ir.TensorProtocol]()
    for graph in clone.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if tensor.nbytes <= _CHECKED_BYTES:
                value.const_value = ir.tensor(tensor.numpy(), name=tensor.name)
                continue
            place, shape = str(len(kept)), ir.Shape(tensor.shape.numpy())
            kept[place] = tensor
            value.const_value = ir.ExternalTensor(
                place, 0, tensor.nbytes, tensor.dtype, shape=shape, name=place
            )
    converted = ir.from_proto(onnx.version_converter.convert_version(ir.to_proto(clone), version))
    for graph in converted.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor) and str(value.const_value.location) in kept:
                value.const_value = kept[str(value.const_value.location)]
    return converted


def _keeping(model: ir.Model, version: int, least: int, runs: Runs) -> str:
    """Return the reason why a model can't have a later opset, by its ops; '' if it can."""
    present = _ops(model)
    for op, (changed, was) in _FORGOTTEN.items():
        if version < changed <= least and op in present:
            return f"{op} {was}, which the version converter ignores"
    for op in sorted(present):
        if _is_withdrawn(op, least):
            continue  # the converter writes its successor
        if runs(op, version) and not runs(op, least):
            return f"onnxruntime has no {op} of opset {_since(op, least)}"
    return ""


def _lower(model: ir.Model, least: int, needed: Sequence[str], runs: Runs) -> str:
    """Convert the model down to the highest opset at which the runtime has the needed ops."""
    version, present = opset_of(model), _ops(model)
    lacking = next(op for op in needed if not runs(op, version))
    lack = f"onnxruntime has no {lacking} of opset {version}"
    able = [v for v in range(version - 1, least - 1, -1) if all(runs(op, v) for op in needed)]
    if not able:
        raise ModelError(f"{lack}, nor of opset {least} to {version - 1}", "a newer onnxruntime")
    kept = sorted(op for op in present if runs(op, version))
    lower = next((v for v in able if all(runs(op, v) for op in kept)), able[0])
    if problem := _not_lowered(model, lower):
        raise ModelError(
            f"{lack}, and the model can't be converted to opset {lower}: {problem}",
            f"export the model with opset {lower}",
        )
    _set_opset(model, lower)
    return f"opset {version} -> {lower}: {lack}"


def _not_lowered(model: ir.Model, lower: int) -> str:
    """Return why a node is invalid, or means something else, at a lower opset; '' if all mean the same.

    onnx's version converter passes unknown ops unchanged, so the definitions are compared here: a node may
    stay if the lower opset's definition of its op accepts its attributes and types.
    """
    version = opset_of(model)
    for node in model.graph.all_nodes():
        if not is_op(node, node.op_type) or _since(node.op_type, version) == _since(node.op_type, lower):
            continue
        if _since(node.op_type, lower) is None:
            return f"{node.op_type} came with opset {_since(node.op_type, version)}"
        if node.op_type == "Mod" and not _whole_numbers(node):
            return "Mod without fmod takes floats since opset 28"
    copy = model.clone()
    _set_opset(copy, lower)
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > _CHECKED_BYTES and not value.is_graph_input():
            del copy.graph.initializers[str(value.name)]
            copy.graph.inputs.append(value)
    try:
        onnx.checker.check_model(ir.to_proto(ir.external_data.load_to_model(copy)), full_check=True)
    except Exception as error:  # ValidationError, InferenceError, or protobuf's own
        if is_out_of_memory(error):
            raise out_of_memory("model", f"it is converted to opset {lower}") from error
        return printable(str(error), 160)
    return ""


def _whole_numbers(node: ir.Node) -> bool:
    """Return whether every opset has this Mod: of integers, or with fmod."""
    fmod = node.attributes.get("fmod")
    if fmod is not None and fmod.as_int():
        return True
    kinds = [v.dtype for v in node.inputs if v is not None and v.dtype is not None]
    return bool(kinds) and all(kind.is_integer() for kind in kinds)


def _since(op: str, opset: int) -> int | None:
    """Return the opset of an op's definition that is valid at an opset; None before its first."""
    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _is_withdrawn(op: str, opset: int) -> bool:
    """Return whether an op is deprecated at an opset."""
    try:
        return bool(onnx.defs.get_schema(op, opset, "").deprecated)
    except onnx.defs.SchemaError:
        return False


def _ops(model: ir.Model) -> set[str]:
    """Return the standard ops of a model."""
    return {node.op_type for node in model.graph.all_nodes() if is_op(node, node.op_type)}


def _set_opset(model: ir.Model, version: int) -> None:
    for domain in {"", "ai.onnx"} & model.opset_imports.keys():
        model.opset_imports[domain] = version


def _replace(model: ir.Model, other: ir.Model) -> None:
    model.graph = other.graph
    model.ir_version = max(model.ir_version, other.ir_version)


def _raise_ir_version(model: ir.Model, version: int) -> None:
    """Raise the IR version to the lowest that an opset may be used with."""
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)], ignore_unknown=True)
    model.ir_version = max(model.ir_version, least)


def _settle_coordinates(model: ir.Model) -> None:
    """Set the attributes of each Resize to its behaviour in opset 10, which the converter (onnx 1.23) omits.

    1. A coordinate is divided by the scale: 'asymmetric'; the default since opset 11 is 'half_pixel'.
    2. 'nearest' rounds down where the map grows, and up where it shrinks, as onnxruntime (1.31) does; the
       specification leaves it open.

    Raises:
        ValueError: scales are computed, or of both kinds: later opsets have no such mode.
    """
    for node in model.graph.all_nodes():
        if not is_op(node, "Resize"):
            continue
        mode = node.attributes.get("mode")
        if mode is None or mode.as_string() == "nearest":
            node.attributes.add(ir.AttrString("nearest_mode", _rounding(_scales(node))))
        node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))


def _rounding(scales: np.ndarray | None) -> str:
    if scales is not None and np.all(scales >= 1):
        return "floor"
    if scales is not None and np.all(scales <= 1):
        return "ceil"
    raise ValueError(
        "a Resize to the nearest neighbour with computed scales, or with scales on both sides of 1"
    )


def _scales(node: ir.Node) -> np.ndarray | None:
    value = node.inputs[2]
    producer = value.producer() if value is not None else None
    made = producer.attributes.get("value") if is_op(producer, "Constant") and producer is not None else None
    return constant(value) if made is None else np.asarray(made.as_tensor().numpy())
