"""The writer of QuantizeLinear/DequantizeLinear graphs.

Every new tensor is named after the one it quantizes (`x` -> `x_quantized`, `x_scale`, ...), so that
the result reads well in a viewer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import Namer, add_initializer, insert_after_value, new_node, owner, take_output_name
from qtool.graph.view import View, float_constant, rank
from qtool.numerics.qparams import QParams
from qtool.numerics.quantize import quantize, quantize_bias, spread, unfold
from qtool.plan.model import Form, Kind, Plan, Site
from qtool.rewrite.recurrent import Fused, fuse_lstm
from qtool.tables.qtypes import PerBlock, PerChannel

# Below every finite activation that matters: Max(x, this) changes nothing, and no optimizer sees through it.
_GUARD_FLOOR = -3e38


@dataclass
class _Writer:
    """The state of one rewrite: the clone's index, free names, and what has been quantized already."""

    view: View
    namer: Namer
    integers: dict[tuple[str, object], ir.Value] = field(default_factory=dict)
    guard_floor: ir.Value | None = None


def rewrite(model: ir.Model, plan: Plan) -> ir.Model:
    """A clone of the prepared model with every site of the plan quantized.

    Raises:
        KeyError: the plan names what the model does not have, or is not resolved.
    """
    clone = model.clone()
    writer = _Writer(View(clone), Namer(clone))
    for site in plan.sites:
        match site.kind:
            case Kind.ACTIVATION:
                _write_activation(writer, site)
            case Kind.WEIGHT:
                _write_weight(writer, site)
            case Kind.BIAS:
                _write_bias(writer, site)
            case Kind.STORED:
                _write_stored(writer, site)
            case Kind.LIFTED:
                _write_lifted(writer, site)
            case Kind.FUSED:
                pass  # written whole, below
    fused = {s.value: s for s in plan.sites if s.kind is Kind.FUSED}
    made: dict[str, Fused] = {}
    for name, form in plan.forms.items():
        if form is Form.DYNAMIC:
            fuse_lstm(writer.view.node_by_name[name], fused, writer.namer, made)
            clone.opset_imports["com.microsoft"] = 1
    _drop_unused_initializers(clone)
    return clone


def _params(site: Site) -> QParams:
    if site.qparams is None:
        raise KeyError(f"site '{site.value}' is not resolved")
    return site.qparams


def _constants(writer: _Writer, site: Site, graph: ir.Graph) -> tuple[ir.Value, ir.Value]:
    """The scale and zero_point initializers of a site: rank 0 or [C]."""
    params = _params(site)
    scale = add_initializer(graph, writer.namer(f"{site.value}_scale"), params.scale)
    zero = add_initializer(
        graph, writer.namer(f"{site.value}_zero_point"), params.zero_point.astype(site.spec.qtype.dtype)
    )
    return scale, zero


def _axis(site: Site) -> dict[str, ir.Attr]:
    granularity = site.spec.granularity
    return {"axis": ir.AttrInt64("axis", granularity.axis)} if isinstance(granularity, PerChannel) else {}


def _redirect(writer: _Writer, site: Site, old: ir.Value, new: ir.Value, keep: set[int]) -> None:
    """Let the site's readers read the new value; None means all but the nodes to keep."""
    if site.uses is None:
        for use in list(old.uses()):
            if id(use.node) not in keep:
                use.node.replace_input_with(use.idx, new)
        return
    for name, index in site.uses:
        writer.view.node_by_name[name].replace_input_with(index, new)


def _write_activation(writer: _Writer, site: Site) -> None:
    value = writer.view.values[site.value]
    graph = owner(value)
    scale, zero = _constants(writer, site, graph)
    name, namer = site.value, writer.namer
    nodes: list[ir.Node] = []
    source = value
    if site.guard:
        if writer.guard_floor is None:
            floor = np.asarray(_GUARD_FLOOR, np.float32)
            writer.guard_floor = add_initializer(graph, namer("guard_floor"), floor)
        guard = new_node(
            "Max",
            [value, writer.guard_floor],
            name=namer(f"{name}_guard"),
            outputs=[namer(f"{name}_guarded")],
        )
        nodes.append(guard)
        source = guard.outputs[0]
    q = new_node(
        "QuantizeLinear",
        [source, scale, zero],
        name=namer(f"{name}_QuantizeLinear"),
        outputs=[namer(f"{name}_quantized")],
    )
    dq = new_node(
        "DequantizeLinear",
        [q.outputs[0], scale, zero],
        name=namer(f"{name}_DequantizeLinear"),
        outputs=[namer(f"{name}_dequantized")],
    )
    nodes += [q, dq]
    result = dq.outputs[0]
    result.type, result.shape = value.type, value.shape
    insert_after_value(value, nodes, graph)
    _redirect(writer, site, value, result, keep={id(n) for n in nodes})
    if site.uses is None:
        take_output_name(value, result, writer.namer)


def _integers(writer: _Writer, site: Site, value: ir.Value, array: NDArray[np.float32]) -> ir.Value:
    """The weight's integers; one initializer however many sites share the weight and the granularity."""
    key = (site.value, site.spec)
    if key not in writer.integers:
        q = unfold(
            quantize(array, _params(site), site.spec.qtype, site.spec.granularity), site.spec.granularity
        )
        writer.integers[key] = add_initializer(owner(value), writer.namer(f"{site.value}_quantized"), q)
    return writer.integers[key]


def _float_array(value: ir.Value) -> NDArray[np.float32]:
    array = float_constant(value)
    if array is None:
        raise KeyError(f"'{value.name}' is no float constant")
    return array


def _write_weight(writer: _Writer, site: Site) -> None:
    value = writer.view.values[site.value]
    graph = owner(value)
    q = _integers(writer, site, value, _float_array(value))
    scale, zero = _constants(writer, site, graph)
    dq = new_node(
        "DequantizeLinear",
        [q, scale, zero],
        name=writer.namer(f"{site.value}_DequantizeLinear"),
        outputs=[writer.namer(f"{site.value}_dequantized")],
        attributes=_axis(site),
    )
    insert_after_value(value, [dq], graph)
    _redirect(writer, site, value, dq.outputs[0], keep=set())


def _write_bias(writer: _Writer, site: Site) -> None:
    """The bias as int32 [C] at the product of its scales; one a use, since each has its own product."""
    value = writer.view.values[site.value]
    graph = owner(value)
    params = _params(site)
    array = _float_array(value).reshape(-1)
    integers = quantize_bias(array, params.scale)
    q = add_initializer(graph, writer.namer(f"{site.value}_quantized"), integers)
    scale = add_initializer(graph, writer.namer(f"{site.value}_scale"), params.scale)
    dq = new_node(
        "DequantizeLinear",
        [q, scale],
        name=writer.namer(f"{site.value}_DequantizeLinear"),
        outputs=[writer.namer(f"{site.value}_dequantized")],
        attributes=_axis(site),
    )
    insert_after_value(value, [dq], graph)
    _redirect(writer, site, value, dq.outputs[0], keep=set())


def _write_stored(writer: _Writer, site: Site) -> None:
    """int8 -> Cast -> Mul(scale) (-> Reshape, for blocks): the runtime folds it once, at load.

    DequantizeLinear it would not fold, and run at every inference.
    """
    value = writer.view.values[site.value]
    graph, name, namer = owner(value), site.value, writer.namer
    array = _float_array(value)
    q = _integers(writer, site, value, array)
    factor = spread(_params(site).scale, site.spec.granularity, array.ndim)
    scale = add_initializer(graph, namer(f"{name}_storage_scale"), factor)
    to_float = {"to": ir.AttrInt64("to", ir.DataType.FLOAT)}
    cast = new_node(
        "Cast", [q], name=namer(f"{name}_Cast"), outputs=[namer(f"{name}_cast")], attributes=to_float
    )
    mul = new_node(
        "Mul", [cast.outputs[0], scale], name=namer(f"{name}_Mul"), outputs=[namer(f"{name}_restored")]
    )
    nodes = [cast, mul]
    if isinstance(site.spec.granularity, PerBlock):
        shape = add_initializer(graph, namer(f"{name}_shape"), np.asarray(array.shape, np.int64))
        nodes.append(
            new_node(
                "Reshape",
                [mul.outputs[0], shape],
                name=namer(f"{name}_Reshape"),
                outputs=[namer(f"{name}_reshaped")],
            )
        )
    insert_after_value(value, nodes, graph)
    _redirect(writer, site, value, nodes[-1].outputs[0], keep=set())


def _write_lifted(writer: _Writer, site: Site) -> None:
    """A bias [N] as [1, .., 1, N]: of a vector the runtime would make a float Gemm's bias."""
    value = writer.view.values[site.value]
    graph = owner(value)
    array = _float_array(value)
    for name, index in site.uses or ():
        node = writer.view.node_by_name[name]
        axes = rank(node.inputs[1 - index]) or array.ndim
        key = (site.value, axes)
        if key not in writer.integers:
            lifted = array.reshape((1,) * (axes - 1) + (-1,))
            writer.integers[key] = add_initializer(graph, writer.namer(f"{site.value}_lifted"), lifted)
        node.replace_input_with(index, writer.integers[key])


def _drop_unused_initializers(model: ir.Model) -> None:
    for graph in model.graphs():
        kept = {id(v) for v in (*graph.outputs, *graph.inputs)}
        for name, value in list(graph.initializers.items()):
            if not value.uses() and id(value) not in kept:
                del graph.initializers[name]
