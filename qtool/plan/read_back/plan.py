"""The plan of a quantized model for its FP32 model: the place of each scale, the floats of each weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import View, constant, float_constant
from qtool.plan.model import Kind, Plan, Site, Use
from qtool.plan.read_back.inputs import QuantizedInput, Stored, quantized_inputs, unread
from qtool.plan.read_back.match import match_nodes, oriented, unmatched
from qtool.tables.forms import Form
from qtool.tables.qtypes import PER_TENSOR, QTYPES, UINT8, TensorSpec


@dataclass(frozen=True)
class ReadPlan:
    """The plan of a quantized model, in the names of its FP32 model.

    Args:
        plan: sites of activations with their scales, and of weights without.
        weights: weight -> its floats after quantization, in the FP32 model's shape, with their scales.
        biases: bias -> the same.
        scales: site -> the name of its scale in the file.
        unmatched: quantized nodes that the FP32 model lacks, or whose op is not known.
        fit: the share of quantized inputs that were placed, and how well weights fit: 1 is all.
    """

    plan: Plan
    weights: Mapping[str, Stored]
    biases: Mapping[str, Stored]
    scales: Mapping[str, str]
    unmatched: tuple[str, ...]
    fit: float


def read_plan(quantized: ir.Model, fp32: ir.Model, mode: str, target: str) -> ReadPlan:
    """Return the plan of a quantized model for the nodes and values of its FP32 model.

    Args:
        quantized: with constants as initializers, and unique names.
        fp32: prepared.
        mode, target: of the plan.
    """
    view = View(fp32)
    inputs = list(quantized_inputs(quantized))
    pairs = match_nodes(view, inputs)
    activations: dict[tuple[str, str, Kind], list[Use]] = {}
    shown: dict[tuple[str, str, Kind], QuantizedInput] = {}
    weights, biases, scales, fits = dict[str, Stored](), dict[str, Stored](), dict[str, str](), list[float]()
    weight_uses: dict[str, list[Use]] = {}
    outputs: set[str] = set()
    for each in inputs:
        if each.node is None:
            value, use = view.model.graph.outputs[each.index], None
            outputs.add(value.name or "")
        elif (near := pairs.get(each.node.name or "")) is not None:
            node = view.node_by_name[near]
            use = (near, each.index)
            read = node.inputs[each.index] if each.index < len(node.inputs) else None
            if read is None:
                continue
            value = read
        else:
            fits.append(0.0)
            continue
        name, array = value.name or "", float_constant(value)
        if each.stored is not None and array is not None and use is not None:
            stored, fit = _as_in_fp32(each.stored, array)
            if stored is None:
                continue
            fits.append(fit)
            (biases if each.kind is Kind.BIAS else weights).setdefault(name, stored)
            if each.kind is Kind.WEIGHT:
                weight_uses.setdefault(name, []).append(use)
                scales[name] = stored.scale
        elif each.stored is None and constant(value) is None:
            key = name, each.scale, each.kind
            shown.setdefault(key, each)
            activations.setdefault(key, []).extend([] if use is None else [use])
            scales.setdefault(name, each.scale)
            fits.append(1.0)
    sites = [
        Site(
            name,
            kind,
            _uses(view.values[name], uses, outputs),
            TensorSpec(shown[name, scale, kind].qtype or UINT8, PER_TENSOR, symmetric=False),
            group=scale,
            qparams=shown[name, scale, kind].qparams,
        )
        for (name, scale, kind), uses in activations.items()
    ]
    order = {v: i for i, v in enumerate(view.values)}
    sites.sort(key=lambda s: order[s.value])
    for name, used in weight_uses.items():
        qtype = QTYPES.get(weights[name].qtype, UINT8)
        sites.append(Site(name, Kind.WEIGHT, tuple(used), TensorSpec(qtype, PER_TENSOR, symmetric=True)))
    forms = {
        use[0]: Form.DYNAMIC if s.kind is Kind.RUNTIME else Form.INT8 for s in sites for use in s.uses or ()
    }
    plan = Plan(mode, target, "", forms, tuple(sites), ())
    share = float(np.mean(fits)) if fits else 0.0
    left_out = (*unmatched(inputs, pairs), *unread(quantized))
    return ReadPlan(plan, weights, biases, scales, left_out, share)


def _uses(value: ir.Value, uses: Sequence[Use], outputs: set[str]) -> tuple[Use, ...] | None:
    """Return the quantized consumers of a value; None for all, where the model returns it quantized too."""
    readers = {(u.node.name or "", u.idx) for u in value.uses()}
    if readers <= set(uses) and (not value.is_graph_output() or value.name in outputs):
        return None
    return tuple(dict.fromkeys(uses))


def _as_in_fp32(stored: Stored, array: NDArray[np.float32]) -> tuple[Stored | None, float]:
    """Return a stored constant in its FP32 shape, and how well it fits; None where it is another one."""
    floats, steps = stored.array, stored.steps
    if floats.size == array.size and 1 in (floats.ndim, array.ndim) and floats.shape != array.shape:
        floats, steps = floats.reshape(array.shape), None if steps is None or steps.ndim else steps
    turned, correlation = oriented(floats, array)
    if not correlation and not np.any(floats):
        turned, correlation = floats.shape != array.shape, 0.0
    if turned:
        floats = np.swapaxes(floats, -1, -2)
        steps = np.swapaxes(steps, -1, -2) if steps is not None and steps.ndim >= 2 else steps
    if floats.shape != array.shape:
        return None, 0.0
    return Stored(floats, steps, stored.scale, stored.qtype), correlation
