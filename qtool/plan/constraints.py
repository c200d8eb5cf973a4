"""The user's constraints: patterns of --exclude, --include and --set, matched with the nodes of a model.

Constraints are immutable. The rules, the solver, repair and the calibration fallback read them, and none
writes its own choice into them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean, printable
from qtool.graph.view import View, op_key
from qtool.plan.eligible import rule_of
from qtool.plan.scheme import PRECISIONS, Scheme
from qtool.tables.forms import Form
from qtool.tables.modes import FEW_BITS
from qtool.tables.qtypes import QType
from qtool.tables.reasons import Code, Reason


@dataclass(frozen=True)
class Patterns:
    """The user's patterns: nodes to keep in float, nodes to quantize, and PATTERN=precision."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constraints:
    """The constraints on each node.

    Args:
        float_nodes: node that stays in float -> why.
        quantize: nodes that are quantized even where the target or a measurement is against it.
        fp16: nodes that compute in float16, whatever the mode.
        weight_types: node -> the storage type of its weights.
        patterns: as the user wrote them.
    """

    float_nodes: Mapping[str, Reason] = field(default_factory=dict)
    quantize: frozenset[str] = frozenset()
    fp16: frozenset[str] = frozenset()
    weight_types: Mapping[str, QType] = field(default_factory=dict)
    patterns: Patterns = field(default_factory=Patterns)

    def product_types(self, scheme: Scheme) -> dict[str, QType]:
        """Return node -> the type of its weight where it is an int8 product, as the user set it."""
        levels = scheme.weight_levels if scheme.form is Form.INT8 else {}
        return {n: levels[t.bits] for n, t in self.weight_types.items() if t.bits in levels}

    def forbids_float(self, node: str) -> bool:
        """Whether the user asked to quantize the node."""
        return node in self.quantize or node in self.fp16


def match_constraints(view: View, original: ir.Model, scheme: Scheme, patterns: Patterns) -> Constraints:
    """Match patterns with nodes: a node name, a glob over names, or `op:Type`.

    Where several options match one node, --set wins over --include, --include over --exclude, and a later
    --set over an earlier one. --exclude P is --set P=fp32.

    Args:
        view: the prepared model.
        original: the source model: an error names nodes that preparation folded.
        scheme: mode and target.
        patterns: the user's.

    Raises:
        UsageError: a pattern matches nothing, or a precision is unknown or means nothing for every match.
    """
    folded = _folded(view, original)
    last: dict[str, _Request] = {}
    for option, pattern, precision in _requests(patterns):
        matched = _matches(view, folded, pattern, option)
        able = [n for n in matched if _able(n, precision, scheme)]
        if not able:
            raise UsageError(
                f"{option} '{printable(pattern)}': {op_key(matched[0])} has no quantized form in this mode"
                if precision == "quantized"
                else f"{option} '{printable(pattern)}': {op_key(matched[0])} has no {precision} form"
            )
        for node in able:
            verb = "excluded" if option == "--exclude" else f"set to {precision}"
            last[node.name or ""] = _Request(precision, f"{verb} by '{pattern}'")
    return _constraints(last, view, scheme, patterns)


def match_nodes(view: View, original: ir.Model, patterns: Sequence[str], option: str) -> tuple[str, ...]:
    """Return the nodes that match any of the patterns, in graph order.

    Args:
        view, original: the prepared model, and the source model.
        patterns: node names, globs or op:Type.
        option: its name in an error.

    Raises:
        UsageError: a pattern matches nothing.
    """
    folded = _folded(view, original)
    matched = {n.name for pattern in patterns for n in _matches(view, folded, pattern, option)}
    return tuple(n.name or "" for n in view.nodes if n.name in matched)


def _folded(view: View, original: ir.Model) -> set[str]:
    """Return the names of nodes that preparation folded away."""
    return {n.name for n in original.graph.all_nodes() if n.name} - set(view.node_by_name)


@dataclass(frozen=True)
class _Request:
    precision: str
    reason: str


def _requests(patterns: Patterns) -> list[tuple[str, str, str]]:
    """Return (option, pattern, precision) in rising order of priority."""
    requests = [("--exclude", pattern, "fp32") for pattern in patterns.exclude]
    requests += [("--include", pattern, "quantized") for pattern in patterns.include]
    for text in patterns.sets:
        pattern, _, precision = text.rpartition("=")
        if not pattern or precision not in PRECISIONS:
            hint = did_you_mean(precision, PRECISIONS) or f"precisions: {', '.join(PRECISIONS)}"
            raise UsageError(f"--set '{printable(text)}' is not PATTERN=PRECISION", hint)
        requests.append(("--set", pattern, precision))
    return requests


def _able(node: ir.Node, precision: str, scheme: Scheme) -> bool:
    """Whether a node has a precision: float always, integers by the op's row."""
    rule = rule_of(node)
    match precision:
        case "fp32" | "fp16":
            return True
        case _ if PRECISIONS.get(precision) in FEW_BITS:
            return rule is not None and bool(rule.weight)
        case _:
            return rule is not None and (bool(rule.weight) or scheme.form_of(rule) is not None)


def _constraints(last: Mapping[str, _Request], view: View, scheme: Scheme, patterns: Patterns) -> Constraints:
    """Return the constraints of the last request for each node, in this mode."""
    floats: dict[str, Reason] = {}
    quantize: set[str] = set()
    fp16: set[str] = set()
    weight_types: dict[str, QType] = {}
    for name, request in last.items():
        if request.precision in PRECISIONS:
            weight_types[name] = PRECISIONS[request.precision]
        rule = rule_of(view.node_by_name[name])
        has_form = rule is not None and scheme.form_of(rule) is not None
        integer = request.precision in ("int8", "quantized")
        few = PRECISIONS.get(request.precision) in FEW_BITS
        if has_form and (integer or (few and scheme.form is Form.NBITS)):
            quantize.add(name)
        elif request.precision != "quantized":
            floats[name] = Reason(Code.CONSTRAINT, request.reason)
        if request.precision == "fp16":
            fp16.add(name)
    return Constraints(floats, frozenset(quantize), frozenset(fp16), weight_types, patterns)


def _matches(view: View, folded: set[str], pattern: str, option: str) -> list[ir.Node]:
    if pattern.startswith("op:"):
        wanted = pattern.removeprefix("op:")
        matched = [n for n in view.nodes if op_key(n) == wanted]
        present = {op_key(n) for n in view.nodes}
        if not matched:
            hint = did_you_mean(wanted, present, "op:") or f"it has: {', '.join(sorted(present))}"
            raise UsageError(f"{option} '{printable(pattern)}': the model has no such op", hint)
        return matched
    # fnmatch reads [..] as a set, and exporters put brackets in names: an equal name matches, too.
    matched = [n for n in view.nodes if n.name == pattern or fnmatchcase(n.name or "", pattern)]
    if not matched and any(name == pattern or fnmatchcase(name, pattern) for name in folded):
        raise UsageError(
            f"{option} '{printable(pattern)}': matches only nodes that preparation folds into others",
            "name the convolution that it follows",
        )
    if not matched:
        names = [n.name or "" for n in view.nodes]
        raise UsageError(
            f"{option} '{printable(pattern)}': no node has that name",
            did_you_mean(pattern, names) or "names are globs ('*/conv1/*'); by type: op:Conv",
        )
    return matched


def input_ranges(model: ir.Model, texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the ranges that '[INPUT=]LOW,HIGH' declares for float inputs; without a name, for all of them.

    Raises:
        UsageError: a text has another form, or there is no such input.
    """
    floats = [v.name or "" for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT]
    ranges: dict[str, tuple[float, float]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        try:
            lo, hi = (float(n) for n in numbers.split(","))
        except ValueError:
            raise UsageError(f"--input-range '{text}' is not [INPUT=]LOW,HIGH", "for example: 0,1") from None
        if not -math.inf < lo < hi < math.inf:
            raise UsageError(f"--input-range '{text}': LOW must be below HIGH")
        if name and name not in floats:
            raise UsageError(f"--input-range '{text}': no float input '{name}'", did_you_mean(name, floats))
        ranges |= dict.fromkeys([name] if name else floats, (lo, hi))
    return ranges
