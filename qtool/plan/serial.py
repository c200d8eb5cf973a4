"""A plan as JSON: readable, diffable, exact to the bit.

    {"schema": "qtool.plan/6", "mode", "target", "model_sha256", "calibration_sha256",
     "fp16": {"nodes": {node: [[input], [output]]}, "stored": [weight], "copied": [weight],
                 "ports": [input or output], "overflow": {value: reason}},
     "choices": {name: value}, "exclude": [pattern], "include": [pattern], "sets": [pattern=precision],
     "forms": {node: form},
     "operators": {node: operator},
     "integer_ports": [input or output],
     "sites": [{"value", "kind", "uses": [[node, input]] | null, "qtype", "granularity", "symmetric",
                "group", "bounds", "scale_from", "scale", "zero_point", "dequantizer",
                "integers"}],
     "edits": [{"kind", "value", "uses": [[node, input]] | null, "node", "axes"}],
     "skips": [{"node", "op", "code", "detail"}],
     "outlier_columns": {value: {"columns": [index], "lo", "hi"}},
     "scaled": {constant: [{"axis", "factors"}]},
     "corrections": {bias: [offset]},
     "regions": [{"nodes": [node], "float_us", "int8_us", "sqnr", "quantized", "why", "ops"}]}

Scales are float32; a decimal of enough digits restores each to the bit. Integers are null where a weight
is rounded to nearest. Long arrays are base64 of little-endian float32 or int32, or of what type the integers
are, so that a plan for an embedding stays small.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from qtool.errors import UsageError
from qtool.numerics.qparams import QParams
from qtool.plan.model import (
    Dequantizer,
    EditKind,
    Fp16Assignment,
    Fp16Node,
    GraphEdit,
    Kind,
    OutlierColumns,
    Plan,
    RegionNote,
    Scaled,
    Site,
    Skip,
    Use,
)
from qtool.plan.scheme import Choices
from qtool.tables.forms import Form, Operator
from qtool.tables.qtypes import (
    QTYPES,
    Granularity,
    PerBlock,
    PerChannel,
    PerRowOfLast,
    PerRun,
    PerTensor,
    QType,
    TensorSpec,
)
from qtool.tables.reasons import Code, Reason

SCHEMA = "qtool.plan/6"
_LONGEST_LIST = 16

_GRANULARITIES: dict[str, Callable[..., Granularity]] = {
    "per_tensor": PerTensor,
    "per_channel": PerChannel,
    "per_row_of_last": PerRowOfLast,
    "per_block": PerBlock,
    "per_run": PerRun,
}


def to_json(plan: Plan) -> str:
    """The plan as indented JSON with a final newline; the same plan gives the same text."""
    document = {
        "schema": SCHEMA,
        "mode": plan.mode,
        "target": plan.target,
        "model_sha256": plan.model_sha256,
        "calibration_sha256": plan.calibration_sha256,
        "choices": plan.choices.made(),
        "fp16": {
            "nodes": {n: [list(p.inputs), list(p.outputs)] for n, p in plan.fp16.nodes.items()},
            "stored": sorted(plan.fp16.stored),
            "copied": sorted(plan.fp16.copied),
            "ports": sorted(plan.fp16.ports),
            "overflow": plan.fp16.overflow,
        },
        "exclude": list(plan.exclude),
        "include": list(plan.include),
        "sets": list(plan.sets),
        "forms": {name: form.value for name, form in plan.forms.items()},
        "operators": {name: operator.value for name, operator in plan.operators.items()},
        "integer_ports": list(plan.integer_ports),
        "sites": [_site(s) for s in plan.sites],
        "edits": [_edit(e) for e in plan.edits],
        "skips": [_skip(s) for s in plan.skips],
        "outlier_columns": {
            v: {"columns": list(s.columns), "lo": s.lo, "hi": s.hi} for v, s in plan.outlier_columns.items()
        },
        "scaled": {v: [_scaled(one) for one in of] for v, of in plan.scaled.items()},
        "corrections": {v: _array(np.asarray(c), "<f4") for v, c in plan.corrections.items()},
        "regions": [
            {**vars(u), "nodes": list(u.nodes), "ops": list(u.ops), "sqnr": str(u.sqnr)} for u in plan.regions
        ],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def digest(plan: Plan) -> str:
    """Return a sha256 of the decisions of a plan, for the model's metadata: not of reasons and timings."""
    return hashlib.sha256(to_json(replace(plan, regions=(), skips=())).encode()).hexdigest()


def from_json(text: str, name: str) -> Plan:
    """Read a plan back.

    Raises:
        UsageError: not JSON, not a plan, or of another schema.
    """
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{name}: not JSON: {error}") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise UsageError(
            f"{name}: not a plan of this version (schema {found!r}, wanted {SCHEMA!r})",
            "make it with --save-plan",
        )
    try:
        return Plan(
            mode=document["mode"],
            target=document["target"],
            model_sha256=document["model_sha256"],
            forms={k: Form(v) for k, v in document["forms"].items()},
            operators={str(k): Operator(v) for k, v in document["operators"].items()},
            integer_ports=tuple(map(str, document["integer_ports"])),
            sites=tuple(_read_site(s) for s in document["sites"]),
            edits=tuple(_read_edit(e) for e in document["edits"]),
            skips=tuple(map(_read_skip, document["skips"])),
            fp16=_read_fp16(document["fp16"]),
            choices=_read_choices(document["choices"]),
            exclude=tuple(map(str, document["exclude"])),
            include=tuple(map(str, document["include"])),
            sets=tuple(map(str, document["sets"])),
            calibration_sha256=str(document["calibration_sha256"]),
            regions=tuple(_read_region(u) for u in document["regions"]),
            outlier_columns={str(v): _read_columns(d) for v, d in document["outlier_columns"].items()},
            scaled={str(v): tuple(map(_read_scaled, of)) for v, of in document["scaled"].items()},
            corrections={str(v): _read_offsets(d) for v, d in document["corrections"].items()},
        )
    except (LookupError, ArithmeticError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{name}: a damaged plan: {type(error).__name__}: {error}") from error


def _skip(skip: Skip) -> dict[str, Any]:
    reason = skip.reason
    return {"node": skip.node, "op": skip.op, "code": reason.code.value, "detail": reason.detail}


def _read_skip(d: dict[str, Any]) -> Skip:
    return Skip(str(d["node"]), str(d["op"]), Reason(Code(d["code"]), str(d["detail"])))


def _read_columns(d: dict[str, Any]) -> OutlierColumns:
    return OutlierColumns(tuple(map(int, d["columns"])), float(d["lo"]), float(d["hi"]))


def _scaled(one: Scaled) -> dict[str, Any]:
    return {"axis": one.axis, "factors": _array(np.asarray(one.factors), "<f4")}


def _read_scaled(d: dict[str, Any]) -> Scaled:
    factors = _read_offsets(d["factors"])
    if any(math.frexp(f)[0] != 0.5 for f in factors):
        raise ValueError("factors that are no powers of two")
    return Scaled(int(d["axis"]), factors)


def _read_offsets(value: Any) -> tuple[float, ...]:
    found = np.asarray(_read_array(value, "<f4"), np.float32)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError("corrections that are not a list of finite numbers")
    return tuple(found.tolist())


def _read_region(d: dict[str, Any]) -> RegionNote:
    return RegionNote(
        nodes=tuple(map(str, d["nodes"])),
        float_us=float(d["float_us"]),
        int8_us=float(d["int8_us"]),
        sqnr=float(d["sqnr"]),
        quantized=bool(d["quantized"]),
        why=str(d["why"]),
        ops=tuple(map(str, d["ops"])),
    )


def _site(site: Site) -> dict[str, Any]:
    params = site.qparams
    return {
        "value": site.value,
        "kind": site.kind.value,
        "uses": _uses(site.uses),
        "qtype": site.spec.qtype.name,
        "granularity": _granularity(site.spec.granularity),
        "symmetric": site.spec.symmetric,
        "group": site.group,
        "bounds": [str(float(b)) for b in site.bounds],
        "scale_from": None if site.scale_from is None else list(site.scale_from),
        "scale": None if params is None else _array(params.scale, "<f4"),
        "zero_point": None if params is None else _array(params.zero_point, "<i4"),
        "dequantizer": site.dequantizer.value,
        "integers": None if site.integers is None else _array(site.integers, _little(site.spec.qtype)),
    }


def _read_site(d: dict[str, Any]) -> Site:
    params = None
    if d["scale"] is not None:
        scale = np.asarray(_read_array(d["scale"], "<f4"), np.float32)
        zero = np.asarray(_read_array(d["zero_point"], "<i4"), np.int64)
        if not (np.isfinite(scale).all() and (scale > 0).all() and zero.shape == scale.shape):
            raise ValueError(f"'{d['value']}' has a scale that is not finite and positive")
        params = QParams(scale, zero)
    spec = TensorSpec(QTYPES[d["qtype"]], _read_granularity(d["granularity"]), bool(d["symmetric"]))
    lo, hi = d["bounds"]
    return Site(
        value=d["value"],
        kind=Kind(d["kind"]),
        uses=_read_uses(d["uses"]),
        spec=spec,
        group=d["group"],
        bounds=(float(lo), float(hi)),
        scale_from=None if d["scale_from"] is None else (d["scale_from"][0], d["scale_from"][1]),
        qparams=params,
        dequantizer=Dequantizer(d["dequantizer"]),
        integers=None if d["integers"] is None else _read_integers(d["integers"], spec.qtype),
    )


def _uses(uses: tuple[Use, ...] | None) -> list[list[Any]] | None:
    return None if uses is None else [list(u) for u in uses]


def _read_uses(value: Any) -> tuple[Use, ...] | None:
    return None if value is None else tuple((str(n), int(i)) for n, i in value)


def _edit(edit: GraphEdit) -> dict[str, Any]:
    return {
        "kind": edit.kind.value,
        "value": edit.value,
        "uses": _uses(edit.uses),
        "node": edit.node,
        "axes": edit.axes,
    }


def _read_edit(d: dict[str, Any]) -> GraphEdit:
    return GraphEdit(
        kind=EditKind(d["kind"]),
        value=str(d["value"]),
        uses=_read_uses(d["uses"]),
        node=str(d["node"]),
        axes=int(d["axes"]),
    )


def _read_integers(value: Any, qtype: QType) -> np.ndarray:
    found = _read_array(value, _little(qtype)).astype(qtype.dtype)
    if qtype.qmin == qtype.qmax or ((found < qtype.qmin) | (found > qtype.qmax)).any():
        raise ValueError(f"integers that {qtype.name} does not have")
    return found


def _little(qtype: QType) -> str:
    """How numpy calls a type whose first byte is its least."""
    return np.dtype(qtype.dtype).newbyteorder("<").str


def _read_fp16(d: dict[str, Any]) -> Fp16Assignment:
    sites = {str(n): Fp16Node(tuple(map(int, r)), tuple(map(int, m))) for n, (r, m) in d["nodes"].items()}
    stored, ports, copied = (frozenset(map(str, d[key])) for key in ("stored", "ports", "copied"))
    return Fp16Assignment(sites, {}, stored, dict(d["overflow"]), ports, copied)


def _read_choices(words: dict[str, Any]) -> Choices:
    choices = Choices(**words)
    for field in fields(choices):
        if type(getattr(choices, field.name)) is not type(field.default):
            raise ValueError(f"{field.name} is {getattr(choices, field.name)!r}")
    return choices


def _granularity(granularity: Granularity) -> list[Any]:
    match granularity:
        case PerTensor():
            return ["per_tensor"]
        case PerChannel(axis):
            return ["per_channel", axis]
        case PerRowOfLast():
            return ["per_row_of_last"]
        case PerBlock(axis, size):
            return ["per_block", axis, size]
        case PerRun(size):
            return ["per_run", size]


def _read_granularity(words: list[Any]) -> Granularity:
    return _GRANULARITIES[words[0]](*words[1:])


def _array(array: np.ndarray, dtype: str) -> Any:
    if array.size <= _LONGEST_LIST:
        return array.tolist()
    raw = np.asarray(array, dtype).tobytes()
    return {"shape": list(array.shape), "base64": base64.b64encode(raw).decode()}


def _read_array(value: Any, dtype: str) -> np.ndarray:
    if isinstance(value, dict):
        return np.frombuffer(base64.b64decode(value["base64"]), dtype).reshape(value["shape"])
    with np.errstate(over="raise"):
        return np.asarray(value, dtype)
