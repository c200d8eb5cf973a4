"""Weight storage: weights of float nodes are kept in fewer bits in the file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import onnx_ir as ir

from qtool.graph.mapped import weight_facts
from qtool.graph.view import View, attribute_int, float_constant, in_side_file, is_op, opset_of
from qtool.numerics.metrics import sqnr_db
from qtool.numerics.qparams import scalable
from qtool.numerics.quantize import rounding_energies
from qtool.numerics.weights import weight_qparams
from qtool.plan.eligible import LEAST_BLOCK, rule_of
from qtool.plan.model import WEIGHTS, Dequantizer, Kind, Site, Use
from qtool.plan.scheme import BLOCKS, PER_CHANNEL_OPSET, WIDE_OPSET, Scheme
from qtool.plan.weights import coarsest_granularity
from qtool.runtime.threads import in_threads
from qtool.tables.modes import FEW_BITS
from qtool.tables.ops import OpRule, Role
from qtool.tables.qtypes import (
    FLOAT16,
    FLOAT32,
    INT4,
    INT8,
    UINT2,
    UINT4,
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


def stored_weights(
    view: View, scheme: Scheme, types: Mapping[str, QType], sites: Sequence[Site] = ()
) -> Storage:
    """Return how to store the weights of float nodes, with as few scales as their error allows.

    Args:
        view: of the prepared model.
        scheme: mode, target and types.
        types: node -> the storage type of its weights.
        sites: of the weights of quantized nodes.
    """
    taken = {use for s in sites for use in s.uses or ()}
    uses_of: dict[tuple[str, Kind, TensorSpec], list[Use]] = {}
    wanted: list[tuple[ir.Node, Use, tuple[str, Granularity, str]]] = []
    finds: dict[tuple[str, Granularity, str], Callable[[], TensorSpec | None]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    tied = _tied_types(view, scheme, types, sites)
    packed = {s.value for s in sites if s.kind is Kind.FUSED and s.spec.qtype in FEW_BITS}
    storage = Storage()
    if scheme.target.float_storage:
        return storage
    for node in view.nodes:
        rule = rule_of(node)
        for index in (*rule.weight, *rule.kept) if rule else ():
            value = node.inputs[index] if index < len(node.inputs) else None
            array = float_constant(value)
            use = (node.name or "", index)
            if rule is None or value is None or array is None or use in taken:
                continue
            qtype = tied.get(value.name or "") or _qtype(node, rule, scheme, types)
            if qtype in (FLOAT16, FLOAT32):
                continue  # stays float32, or is float16 for the nodes that compute in it
            find_problem = partial(_storage_problem, value, array.shape, rule, scheme)
            if reason := view.once(("storage problem", value.name, rule, scheme.mode.name), find_problem):
                storage.reasons[node.name or ""] = reason
                continue
            coarse = coarsest_granularity(node, rule, array.ndim, index)
            key = (value.name or "", coarse, qtype.name)
            if key not in finds:
                by_row = rule.role is not Role.WEIGHTED or (value.name or "") in tied
                find = partial(_spec, value, coarse, qtype, scheme, opset_of(view.model), by_row=by_row)
                names = scheme.mode.name, scheme.target.name, scheme.choices.block, by_row
                finds[key] = partial(view.once, ("stored", *key, *names), find)
            shapes[key[0]] = array.shape
            wanted.append((node, use, key))
    large = any(in_side_file(view.values[name]) for name, *_ in finds)
    specs = (in_threads if large else map)(lambda find: find(), list(finds.values()))
    chosen = dict(zip(finds, specs, strict=True))
    for node, use, key in wanted:
        if (spec := chosen[key]) is not None:
            name = key[0]
            packs = _matrices_of(view, view.values[name]) <= packed
            kind = _kind(node, spec, shapes[name], scheme, packs=packs)
            uses_of.setdefault((name, kind, spec), []).append(use)
        else:
            reason = f"its weight loses more than {scheme.mode.storage_floor_db:g} dB allow in 8 bits"
            storage.reasons[node.name or ""] = reason
    for (name, kind, spec), uses in uses_of.items():
        dequantizer = _dequantizer(spec, shapes[name], scheme, opset_of(view.model))
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
    if spec.qtype.packed:
        return Dequantizer.CAST_MUL  # onnxruntime (1.32) fuses a DequantizeLinear of int2 to invalid products
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


def _tied_types(
    view: View, scheme: Scheme, types: Mapping[str, QType], sites: Sequence[Site]
) -> dict[str, QType]:
    """Return the type of each constant that is a table or its transpose, so that the file holds one of both.

    It is that of the quantized product with the table, else 8 bits; where the user keeps one in float, float.
    A table whose nodes have several types by the user's wish is not among them.
    """
    quantized = {s.value: s.spec.qtype for s in sites if s.kind in WEIGHTS}
    wanted: dict[str, set[QType]] = {}
    for name, table in view.tied.items():
        own = wanted.setdefault(table, set())
        own |= {types[node.name or ""] for node, _ in view.values[name].uses() if node.name in types}
        own |= {quantized[name]} if name in quantized else set()
    types_of: dict[str, QType] = {}
    for table, own in wanted.items():
        default = INT8 if scheme.storage.bits <= INT8.bits else scheme.storage
        settled = FLOAT32 if FLOAT32 in own else next(iter(own), default)
        if len(own) < 2 or FLOAT32 in own:
            types_of |= {name: settled for name, other in view.tied.items() if other == table}
    return types_of


def _storage_problem(value: ir.Value, shape: Sequence[int], rule: OpRule, scheme: Scheme) -> str:
    """Return the reason why a weight stays float; '' when it can be stored in fewer bits."""
    if rule.role is Role.RECURRENT and scheme.target.constant_recurrent and scheme.form is not None:
        return "the runtime takes constants only as the weights of recurrent layers"
    if len(shape) < 2:
        return "its weight is a vector: a scale for each of its values would save nothing"
    least = max(scheme.mode.storage_min_elements, rule.storage_min_elements)
    if math.prod(shape) < least:
        return f"its weight of fewer than {least} values is not worth it"
    facts = weight_facts(value)
    size = max(facts.greatest, -facts.least)  # NaN if there is one
    if not math.isfinite(size):
        return "its weight holds NaN or infinity"
    return "" if scalable(size) else f"its weight reaches {size:.3g}, beyond what a scale can be"


def _spec(
    value: ir.Value, coarse: Granularity, qtype: QType, scheme: Scheme, opset: int, *, by_row: bool
) -> TensorSpec | None:
    """Return the quantization of a stored weight; None when int8 does not reach the required SQNR.

    A weight that can't be cut into blocks is stored in 8 bits, not fewer.

    Args:
        by_row: begin with one scale for each channel, also in a mode that begins with blocks.
    """
    w = float_constant(value)
    if w is None:
        raise KeyError(f"'{value.name}' is no float constant")
    few = FEW_BITS.get(qtype)
    size = scheme.choices.block or (few.block if few else 0)
    if size:
        granularity = cut_into_blocks(w, coarse, size, can_pad=opset >= PER_CHANNEL_OPSET)
        if granularity is not None:
            centred = few is None or few.centred
            if scheme.target.symmetric and qtype is UINT4:  # TensorRT: int4, and zero points of 0
                qtype, centred = INT4, True
            return TensorSpec(qtype, granularity, symmetric=centred)
    can_block = scheme.target.onnxruntime or opset >= WIDE_OPSET
    first = scheme.mode.storage_block if w.ndim == 2 and not by_row else 0
    eight = qtype if qtype.dtype == INT8.dtype else INT8
    coarsest = storage_granularity(
        w, coarse, scheme.mode.storage_floor_db, can_block=can_block, first=first, qtype=eight
    )
    return None if coarsest is None else TensorSpec(eight, coarsest, symmetric=True)


def _kind(node: ir.Node, spec: TensorSpec, shape: Sequence[int], scheme: Scheme, *, packs: bool) -> Kind:
    """Return LOOKUP for a table whose rows a Gather picks, so that only these become floats; else STORED.

    Args:
        packs: all products with the table read it packed, so that both can share it.
    """
    if node.op_type != "Gather" or attribute_int(node, "axis", 0) != 0:
        return Kind.STORED
    can_pack = packs and len(shape) == 2 and spec.qtype in FEW_BITS and scheme.target.onnxruntime
    match spec.granularity:
        case PerChannel(0) if spec.qtype.dtype == INT8.dtype:
            return Kind.LOOKUP
        case PerBlock(1, size) if can_pack and size >= LEAST_BLOCK and size.bit_count() == 1:
            return Kind.STORED if shape[1] % size else Kind.LOOKUP
        case _:
            return Kind.STORED


def _matrices_of(view: View, table: ir.Value) -> set[str]:
    """Return the constants that products read as a table: itself, and its transposes."""
    name = table.name or ""
    own = {name} if not all(is_op(use.node, "Gather") for use in table.uses()) else set[str]()
    return own | {other for other, tied_to in view.tied.items() if tied_to == name and other != name}


def cut_into_blocks(
    w: np.ndarray, coarse: Granularity, size: int, *, can_pad: bool = True
) -> PerBlock | PerRun | None:
    """Return blocks of about `size` values of one channel; None for channels shorter than half of that.

    The blocks have the length of a divisor where one is near, else the last block is shorter (`can_pad`).
    """
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
    run = nearest_divisor(total, size) or (size if can_pad and total > size else 0)
    if not run:
        return None
    return PerRun(run) if axis < 0 else PerBlock(axis, run)


def storage_granularity(
    w: np.ndarray,
    coarse: Granularity,
    floor_db: float,
    *,
    can_block: bool = True,
    first: int = 0,
    qtype: QType = INT8,
) -> Granularity | None:
    """Return the coarsest granularity at which int8 keeps a weight's SQNR above a floor; None if none does.

    Args:
        w: the weight.
        coarse: the coarsest granularity to try.
        floor_db: the least SQNR.
        can_block: blocks are allowed; they run along the longest axis but the channels'.
        first: the largest block to try; 0: also one scale for each channel.
        qtype: of 8 bits in the file.
    """
    options: list[Granularity] = [coarse]
    if isinstance(coarse, PerChannel) and w.ndim >= 2 and can_block:
        others = [i for i in range(w.ndim) if i != coarse.axis]
        axis = max(others, key=lambda i: w.shape[i])
        blocked = [PerBlock(axis, size) for size in BLOCKS[::-1] if w.shape[axis] % size == 0]
        options = [b for b in blocked if b.size <= first] or [coarse, *blocked]
    for option in options:
        params = weight_qparams(w, TensorSpec(qtype, option, symmetric=True))
        if sqnr_db(*rounding_energies(w, params, qtype, option)) >= floor_db:
            return option
    return None


def nearest_divisor(number: int, wanted: int) -> int:
    """Return the divisor of a number nearest to `wanted`, from half to one and a half of it; 0 if none is."""
    near = [d for d in range(max(1, wanted // 2), wanted * 3 // 2 + 1) if number % d == 0]
    return min(near, key=lambda d: abs(d - wanted), default=0)
