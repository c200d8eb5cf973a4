"""Inline model-local functions, so that later passes see their weights and nodes."""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from qtool.errors import ModelError, printable


def inline_functions(model: ir.Model) -> str:
    """Replace every call of a model-local function by the function's body.

    Raises:
        ModelError: onnx-ir (1.1) can't inline one: its opset differs, or it has graph attributes.
    """
    count = len(model.functions)
    if not count:
        return ""
    _name_nodes(model)
    try:
        inlined = common.InlinePass()(model).model
    except (ir.passes.PassError, ir.passes.InvariantError, ValueError) as error:
        cause = error.__cause__ or error
        raise ModelError(f"its functions can't be inlined: {printable(str(cause))}") from error
    if inlined is not model:  # the pass declares itself in place; hold it to that
        raise RuntimeError("onnx-ir's InlinePass returned another model")
    model.functions.clear()
    return f"{count} functions inlined"


def _name_nodes(model: ir.Model) -> None:
    """Name all nodes: for each nameless one the pass would try the names of all others."""
    for function in model.functions.values():
        for number, node in enumerate(function.all_nodes()):
            node.name = node.name or f"{function.name}/{node.op_type}_{number}"
