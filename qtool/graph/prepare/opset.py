"""The opset: kept where it suffices, else the lowest that the quantized forms need."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from qtool.errors import ModelError, printable
from qtool.graph.prepare.resizes import FIRST_WITH_COORDINATES, settle_coordinates
from qtool.graph.view import is_op, opset_of

# QuantizeLinear and DequantizeLinear take an axis since 13.
QDQ_OPSET = 13
# What the converter (1.23) renames and leaves as it was: op -> the opset in which it changed, and from what.
_FORGOTTEN = {
    "Scan": (9, "has a batch axis there"),
    "Hardmax": (13, "takes its axis and all behind it for one there"),
}
# Ops that onnxruntime (1.31) has no kernel for from an opset on: it was given types that nobody asked for.
_KERNELLESS = dict.fromkeys(
    (
        "GlobalLpPool",
        "MaxRoiPool",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "RoiAlign",
    ),
    22,
)


def upgrade_opset(model: ir.Model, least: int = QDQ_OPSET) -> str:
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
    if reason := _keeping(model, version, least):
        return f"opset {version} kept: {reason}"
    try:
        proto = onnx.version_converter.convert_version(
            ir.to_proto(ir.external_data.load_to_model(model.clone())), least
        )
        converted = ir.from_proto(proto)
        if version < FIRST_WITH_COORDINATES <= least:
            settle_coordinates(converted)
    except Exception as error:  # the converter raises RuntimeError, or protobuf's own
        return f"opset {version} kept: the version converter failed ({printable(str(error), 120)})"
    if [v.name for v in converted.graph.outputs] != [v.name for v in model.graph.outputs]:
        raise ModelError(f"opset {version}: the version converter changed the model's outputs")
    _replace(model, converted)
    _raise_ir_version(model, least)
    return f"opset {version} -> {least}"


def _keeping(model: ir.Model, version: int, least: int) -> str:
    """Why a model can't have a later opset, by the ops that it has; '' if nothing speaks against it."""
    present = {node.op_type for node in model.graph.all_nodes() if is_op(node, node.op_type)}
    for op, (changed, was) in _FORGOTTEN.items():
        if version < changed <= least and op in present:
            return f"{op} {was}, which the version converter forgets"
    for op, changed in _KERNELLESS.items():
        if version < changed <= least and op in present:
            return f"onnxruntime has no {op} of opset {changed}"
    return ""


def _replace(model: ir.Model, other: ir.Model) -> None:
    model.graph = other.graph
    model.ir_version = max(model.ir_version, other.ir_version)


def _raise_ir_version(model: ir.Model, version: int) -> None:
    """The lowest IR version that an opset may be used with; newer ones buy nothing."""
    least = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)], ignore_unknown=True)
    model.ir_version = max(model.ir_version, least)
