"""Weight storage: weights of float nodes are kept in fewer bits in the file."""

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
from qtool.plan.weights import coarsest_granularity
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
    """The weights that are stored in fewer bits, and for each other node with weights the reason."""

    sites: list[Site] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)


def stored_weights(view: View, scheme: Scheme, types: Mapping[str, QType], taken: set[Use]) -> Storage:
    """Return how to store the weights of float nodes, with as few scales as their error allows.

    Args:
        view: of the prepared model.
        scheme: mode, target and types.
        types: node -> the storage type of its weights.
        taken: inputs of quantized nodes, which have sites of their own.
    """
    uses_of: dict[tuple[str, TensorSpec], list[Use]] = {}
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
                continue  # stays float32, or is float16 for the nodes that compute in it
            if reason := _storage_problem(array, rule, scheme):
                storage.reasons[node.name or ""] = reason
                continue
            coarse = coarsest_granularity(node, rule, array.ndim, index)
            key = (value.name or "", coarse, qtype.name)
            if key not in chosen:
                chosen[key] = _spec(array, coarse, qtype, rule, scheme, opset_of(view.model))
            spec = chosen[key]
            if spec is not None:
                uses_of.setdefault((value.name or "", spec), []).append(use)
            else:
                reason = f"its weight loses more than {scheme.mode.storage_floor_db:g} dB allow in 8 bits"
                storage.reasons[node.name or ""] = reason
    for (name, spec), uses in uses_of.items():
        array = float_constant(view.values[name])
        shape = () if array is None else array.shape
        dequantizer = _dequantizer(spec, shape, scheme, opset_of(view.model))
        kind = _kind(view, spec, uses)
        storage.sites.append(Site(name, kind, tuple(uses), spec, dequantizer=dequantizer))
    return storage


def _dequantizer(spec: TensorSpec, shape: Sequence[int], scheme: Scheme, opset: int) -> Dequantizer:
    """Return the nodes that turn a stored weight into floats.

    DequantizeLinear where the opset has that granularity; for onnxruntime Cast and Mul, because it folds
    these when it loads the model, and never folds DequantizeLinear.
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
    """Return the storage type of a node's weights: the user's, else the mode's within the op's limit."""
    requested = types.get(node.name or "")
    if requested is not None:
        return requested
    return INT8 if scheme.storage.bits < rule.storage_bits else scheme.storage


def _storage_problem(array: np.ndarray, rule: OpRule, scheme: Scheme) -> str:
    """Return the reason why a weight stays float; '' when it can be stored in fewer bits."""
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
    """Return the quantization of a stored weight; None when int8 does not reach the required SQNR.

    A weight that can't be cut into blocks is stored in 8 bits, not fewer.
    """
    few = FEW_BITS.get(qtype)
    size = scheme.block or (few.block if few else 0)
    if size:
        granularity = cut_into_blocks(w, coarse, size)
        if granularity is not None:
            return TensorSpec(qtype, granularity, symmetric=few is None)
    can_block = scheme.target.onnxruntime or opset >= WIDE_OPSET
    first = scheme.mode.storage_block if w.ndim == 2 and rule.role is Role.WEIGHTED else 0
    coarsest_granularity = storage_granularity(
        w, coarse, scheme.mode.storage_floor_db, can_block=can_block, first=first
    )
    if coarsest_granularity is None:
        return None
    return TensorSpec(INT8, coarsest_granularity, symmetric=True)


def _kind(view: View, spec: TensorSpec, uses: list[Use]) -> Kind:
    """Return LOOKUP for a table whose rows a Gather picks, so that only these become floats; else STORED."""
    nodes = [view.node_by_name[name] for name, _ in uses]
    rows = spec.granularity == PerChannel(0) and spec.qtype is INT8
    picked = all(n.op_type == "Gather" and attribute_int(n, "axis", 0) == 0 for n in nodes)
    return Kind.LOOKUP if rows and picked else Kind.STORED


def cut_into_blocks(w: np.ndarray, coarse: Granularity, size: int) -> PerBlock | PerRun | None:
    """Return blocks of about `size` values of one channel; None where no divisor is near."""
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
    """Return the coarsest granularity at which int8 keeps a weight's SQNR above a floor; None if none does.

    Args:
        w: the weight.
        coarse: the coarsest granularity to try.
        floor_db: the least SQNR.
        can_block: blocks are allowed; they run along the longest axis but the channels'.
        first: the largest block to try; 0: also one scale for each channel.
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
    """Return the divisor of a number nearest to `wanted`, from half to one and a half of it; 0 if none is."""
    near = [d for d in range(max(1, wanted // 2), wanted * 3 // 2 + 1) if number % d == 0]
    return min(near, key=lambda d: abs(d - wanted), default=0)
