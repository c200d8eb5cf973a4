"""Make initializers of Constant nodes, nested graphs included."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common


def lift_constants(model: ir.Model) -> str:
    """Lift every Constant node that is not itself an output of its graph.

    Later passes consider initializers only, and weights may be Constant nodes.
    """
    _write_out_strings(model)
    before = _count(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    lifted = before - _count(model)
    return f"{lifted} Constant nodes became initializers" if lifted else ""


def _count(model: ir.Model) -> int:
    return sum(n.op_type == "Constant" for n in model.graph.all_nodes())


def _write_out_strings(model: ir.Model) -> None:
    """Make tensors of string attributes: onnx-ir's pass (1.1) accepts ASCII only."""
    for node in model.graph.all_nodes():
        strings = {k: a for k, a in node.attributes.items() if k in ("value_string", "value_strings")}
        for name, attribute in strings.items() if node.op_type == "Constant" else ():
            words = [attribute.as_string()] if name == "value_string" else list(attribute.as_strings())
            shape = () if name == "value_string" else (len(words),)
            array = np.empty(len(words), object)
            array[:] = [word.encode() for word in words]
            node.attributes.pop(name)
            node.attributes.add(ir.AttrTensor("value", ir.StringTensor(array.reshape(shape))))
