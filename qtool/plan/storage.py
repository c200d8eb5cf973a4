"""Weights of nodes that compute in float, kept in fewer bits in the file alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from qtool.graph.view import View, attribute_int, float_constant, opset_of
from qtool.numerics.metrics import weight_sqnr
from qtool.numerics.qparams import scalable
from qtool.numerics.quantize import dequantize, quantize
from qtool.numerics.weights import weight_qparams
from qtool.plan.eligible import rule_of
from qtool.plan.model import Dequantizer, Kind, Site, Use
from qtool.plan.scheme import BLOCKS, PER_CHANNEL_OPSET, WIDE_OPSET, Scheme
from qtool.plan.weights import coarsest
from qtool.tables.modes import FEW_BITS
from qtool.tables.ops import OpRule, Role
from qtool.tables.qtypes import (
    FLOAT16,
    FLOAT32,
    INT8,
    UINT2,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    QType,
    TensorSpec,
)


@dataclass
class Storage:
    """What is stored how, and why the rest is not: node -> reason."""

    sites: list[Site] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def stored(view: View, scheme: Scheme, types: Mapping[str, QType], taken: set[Use]) -> Storage:
    """Float weights that no quantized node reads (`taken`), as coarsely as their own error allows."""
    found: dict[tuple[str, TensorSpec], list[Use]] = {}
    chosen: dict[tuple[str, Granularity, str], TensorSpec | None] = {}
    storage = Storage()
    for node in view.nodes:
        rule = rule_of(node)
        for index in (*rule.weight, *rule.kept) if rule else ():
            value = node.inputs[index] if index < len(node.inputs) else None
            array = float_constant(value)
            use = (node.name or "", index)
            if rule is None or value is None or array is None or use in taken:
                continue
            qtype = _qtype(node, rule, scheme, types)
            if qtype in (FLOAT16, FLOAT32):
                continue  # kept as it is; float16 weights are read so by the nodes that compute in it
            if reason := _unfit(array, rule, scheme):
                storage.reasons[node.name or ""] = reason
                continue
            coarse = coarsest(node, rule, array.ndim, index)
            key = (value.name or "", coarse, qtype.name)
            if key not in chosen:
                chosen[key] = _spec(array, coarse, qtype, rule, scheme, opset_of(view.model))
            spec = chosen[key]
            if spec is not None:
                found.setdefault((value.name or "", spec), []).append(use)
            else:
                reason = f"its weight loses more than {scheme.mode.storage_floor_db:g} dB allow in 8 bits"
                storage.reasons[node.name or ""] = reason
    for (name, spec), uses in found.items():
        array = float_constant(view.values[name])
        shape = () if array is None else array.shape
        dequantizer = _dequantizer(spec, shape, scheme, opset_of(view.model))
        kind = _kind(view, spec, uses)
        storage.sites.append(Site(name, kind, tuple(uses), spec, dequantizer=dequantizer))
    return storage


def _dequantizer(spec: TensorSpec, shape: Sequence[int], scheme: Scheme, opset: int) -> Dequantizer:
    """Return how a stored weight becomes floats: by DequantizeLinear where the opset has that granularity.

    For onnxruntime by Cast and Mul: it folds these when it loads the model, and DequantizeLinear never.
    """
    match spec.granularity:
        case PerChannel(axis):
            least, rows = PER_CHANNEL_OPSET, axis == 0 and len(shape) == 2
        case PerBlock(axis, _):
            least, rows = WIDE_OPSET, axis == 0 and len(shape) == 2
        case PerRun() | PerRowOfLast():
            least, rows = WIDE_OPSET, False
        case _:
            return Dequantizer.CAST_MUL
    if scheme.target.onnxruntime or opset < least:
        return Dequantizer.CAST_MUL
    if spec.qtype is UINT2 and rows and shape[1] % 4:
        # onnxruntime (1.31) makes MatMulNBits of it, and misreads rows that end within a byte.
        return Dequantizer.CAST_MUL
    return Dequantizer.OPERATOR


def _qtype(node: ir.Node, rule: OpRule, scheme: Scheme, types: Mapping[str, QType]) -> QType:
    """What was asked for the node, else what the mode says, within what the op bears."""
    asked = types.get(node.name or "")
    if asked is not None:
        return asked
    return INT8 if scheme.storage.bits < rule.storage_bits else scheme.storage


def _unfit(array: np.ndarray, rule: OpRule, scheme: Scheme) -> str:
    if array.ndim < 2:
        return "its weight is a vector: a scale for each of its values would save nothing"
    least = max(scheme.mode.storage_min_elements, rule.storage_min_elements)
    if array.size < least:
        return f"its weight of fewer than {least} values is not worth it"
    if not np.isfinite(array).all():
        return "its weight holds NaN or infinity"
    size = float(np.abs(array).max(initial=0.0))
    return "" if scalable(size) else f"its weight reaches {size:.3g}, beyond what a scale can be"


def _spec(
    w: np.ndarray, coarse: Granularity, qtype: QType, rule: OpRule, scheme: Scheme, opset: int
) -> TensorSpec | None:
    """How to store a weight; None when int8 can't hold it to the wanted SQNR.

    What can't be cut into blocks has no form in fewer bits: 8 hold it.
    """
    few = FEW_BITS.get(qtype)
    size = scheme.block or (few.block if few else 0)
    if size:
        found = blocks(w, coarse, size)
        if found is not None:
            return TensorSpec(qtype, found, symmetric=few is None)
    can_block = scheme.target.onnxruntime or opset >= WIDE_OPSET
    first = scheme.mode.storage_block if w.ndim == 2 and rule.role is Role.WEIGHTED else 0
    granularity = storage_granularity(
        w, coarse, scheme.mode.storage_floor_db, can_block=can_block, first=first
    )
    return None if granularity is None else TensorSpec(INT8, granularity, symmetric=True)


def _kind(view: View, spec: TensorSpec, uses: list[Use]) -> Kind:
    """A table of which rows are picked is restored row by row; all else once, at load."""
    nodes = [view.node_by_name[name] for name, _ in uses]
    rows = spec.granularity == PerChannel(0) and spec.qtype is INT8
    picked = all(n.op_type == "Gather" and attribute_int(n, "axis", 0) == 0 for n in nodes)
    return Kind.LOOKUP if rows and picked else Kind.STORED


def blocks(w: np.ndarray, coarse: Granularity, size: int) -> PerBlock | PerRun | None:
    """Runs of about `size` values of one channel; None where its values can't be cut so."""
    match coarse:
        case PerRowOfLast():
            axis, total = w.ndim - 1, w.shape[-1]
        case PerChannel(0) if w.ndim > 2:
            axis, total = -1, w[0].size
        case PerChannel(channel) if w.ndim > 1:
            axis = max((i for i in range(w.ndim) if i != channel), key=lambda i: w.shape[i])
            total = w.shape[axis]
        case _:
            return None
    run = nearest_divisor(total, size)
    if not run:
        return None
    return PerRun(run) if axis < 0 else PerBlock(axis, run)


def storage_granularity(
    w: np.ndarray, coarse: Granularity, floor_db: float, *, can_block: bool = True, first: int = 0
) -> Granularity | None:
    """The coarsest granularity at which int8 holds a weight to the wanted SQNR; None if none does.

    Blocks run along the longest axis that is not the channels'; `first` leaves out what is coarser.
    """
    options: list[Granularity] = [coarse]
    if isinstance(coarse, PerChannel) and w.ndim >= 2 and can_block:
        others = [i for i in range(w.ndim) if i != coarse.axis]
        axis = max(others, key=lambda i: w.shape[i])
        blocked = [PerBlock(axis, size) for size in BLOCKS[::-1] if w.shape[axis] % size == 0]
        options = [b for b in blocked if b.size <= first] or [coarse, *blocked]
    for option in options:
        params = weight_qparams(w, TensorSpec(INT8, option, symmetric=True))
        if weight_sqnr(w, dequantize(quantize(w, params, INT8, option), params, option)) >= floor_db:
            return option
    return None


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of a number nearest to a wanted one, within half and one and a half of it; 0 if none is."""
    near = [d for d in range(max(1, wanted // 2), wanted * 3 // 2 + 1) if number % d == 0]
    return min(near, key=lambda d: abs(d - wanted), default=0)
