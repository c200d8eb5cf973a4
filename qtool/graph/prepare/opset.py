"""The opset: kept where it suffices, else the lowest that the quantized forms need.

It is lowered where the runtime has no QuantizeLinear of the source's opset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir

from qtool.errors import ModelError, is_out_of_memory, out_of_memory, printable
from qtool.graph.prepare.resizes import FIRST_WITH_COORDINATES, settle_coordinates
from qtool.graph.view import is_op, opset_of

# QuantizeLinear and DequantizeLinear take an axis since 13.
QDQ_OPSET = 13
QDQ_OPS = ("QuantizeLinear", "DequantizeLinear")
# (op, opset) -> whether the runtime that is to run the model has the op as that opset defines it.
Runs = Callable[[str, int], bool]
# What the converter (1.23) renames and leaves as it was: op -> the opset in which it changed, and from what.
_FORGOTTEN = {
    "Scan": (9, "has a batch axis there"),
    "Hardmax": (13, "takes its axis and all behind it for one there"),
}
# Larger weights are left out of the copy that is checked after the opset was lowered.
_CHECKED_BYTES = 1 << 10


def runs_all(op: str, opset: int) -> bool:
    """The answer of a runtime that has every op of every opset."""
    return True


def settle_opset(model: ir.Model, least: int, needed: Sequence[str], runs: Runs) -> str:
    """Raise the opset to `least` if it is lower; lower it if the runtime lacks a needed op of that opset.

    Args:
        model: changed in place.
        least: the lowest opset that the quantized forms need.
        needed: the ops that quantizing will insert.
        runs: what the runtime has.

    Raises:
        ModelError: the runtime lacks a needed op, and the model can't be converted to a lower opset.
    """
    version = opset_of(model)
    if version < least or all(runs(op, version) for op in needed):
        return upgrade_opset(model, least, runs)
    if version > onnx.defs.onnx_opset_version():
        return ""  # what its ops mean is not known here: the runtime says whether it knows
    return _lower(model, least, needed, runs)


def upgrade_opset(model: ir.Model, least: int = QDQ_OPSET, runs: Runs = runs_all) -> str:
    """Raise the opset to the least one through onnx's version converter, which knows what each op became.

    A model that the converter can't take stays at its opset: weights can still be stored as int8
    there, and the draft gives the reason for the rest.
    """
    version = opset_of(model)
    if not {"", "ai.onnx"} & model.opset_imports.keys():
        # No node of the standard domain is there to be converted, but QuantizeLinear may come.
        model.opset_imports[""] = version = least
    if version >= least:
        _raise_ir_version(model, version)
        return ""
    if reason := _keeping(model, version, least, runs):
        return f"opset {version} kept: {reason}"
    try:
        proto = onnx.version_converter.convert_version(
            ir.to_proto(ir.external_data.load_to_model(model.clone())), least
        )
        converted = ir.from_proto(proto)
        if version < FIRST_WITH_COORDINATES <= least:
            settle_coordinates(converted)
    except Exception as error:  # the converter raises RuntimeError, or protobuf's own
        if is_out_of_memory(error):
            raise out_of_memory("model", f"it is converted to opset {least}") from error
        return f"opset {version} kept: the version converter failed ({printable(str(error), 120)})"
    if [v.name for v in converted.graph.outputs] != [v.name for v in model.graph.outputs]:
        raise ModelError(f"opset {version}: the version converter changed the model's outputs")
    _replace(model, converted)
    _raise_ir_version(model, least)
    return f"opset {version} -> {least}"


def _keeping(model: ir.Model, version: int, least: int, runs: Runs) -> str:
    """Why a model can't have a later opset, by the ops that it has; '' if nothing speaks against it."""
    present = _ops(model)
    for op, (changed, was) in _FORGOTTEN.items():
        if version < changed <= least and op in present:
            return f"{op} {was}, which the version converter forgets"
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
    """Why the nodes mean something else, or nothing, at a lower opset; '' if they mean the same.

    onnx's version converter passes ops that it knows nothing of, so the definitions are compared here: a
    node may stay as it is if the lower opset's definition of the op accepts its attributes and types.
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
    """Whether a Mod is one that every opset has: of integers, or with fmod."""
    fmod = node.attributes.get("fmod")
    if fmod is not None and fmod.as_int():
        return True
    kinds = [v.dtype for v in node.inputs if v is not None and v.dtype is not None]
    return bool(kinds) and all(kind.is_integer() for kind in kinds)


def _since(op: str, opset: int) -> int | None:
    """The opset that an op's definition at an opset came with; None if there is none yet."""
    try:
        return int(onnx.defs.get_schema(op, opset, "").since_version)
    except onnx.defs.SchemaError:
        return None


def _is_withdrawn(op: str, opset: int) -> bool:
    """Whether an opset no longer has an op that an earlier one had."""
    try:
        return bool(onnx.defs.get_schema(op, opset, "").deprecated)
    except onnx.defs.SchemaError:
        return False


def _ops(model: ir.Model) -> set[str]:
    """The standard ops of a model."""
    return {node.op_type for node in model.graph.all_nodes() if is_op(node, node.op_type)}


def _set_opset(model: ir.Model, version: int) -> None:
    for domain in {"", "ai.onnx"} & model.opset_imports.keys():
        model.opset_imports[domain] = version


def _replace(model: ir.Model, other: ir.Model) -> None:
    model.graph = other.graph
    model.ir_version = max(model.ir_version, other.ir_version)


def _raise_ir_version(model: ir.Model, version: int) -> None:
    """The lowest IR version that an opset may be used with; newer ones buy nothing."""
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)], ignore_unknown=True)
    model.ir_version = max(model.ir_version, least)
