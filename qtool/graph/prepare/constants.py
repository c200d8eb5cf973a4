"""Constant nodes become initializers, nested graphs included."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common


def lift_constants(model: ir.Model) -> str:
    """Lift every Constant node that is not itself an output of its graph.

    Weights in Constant nodes are weights: below, only initializers are looked at.
    """
    before = _count(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = before - _count(model)
    return f"{lifted} Constant nodes became initializers" if lifted else ""


def _count(model: ir.Model) -> int:
    return sum(n.op_type == "Constant" for n in model.graph.all_nodes())
