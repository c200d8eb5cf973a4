"""What the user asks of nodes, matched with the nodes that are there.

Constraints are a value of their own, which nothing changes: the rules, the solver, repair and the calibration
fallback all read them, and none writes its own choice into them.
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
    """What the user asks of nodes: patterns to keep in float, to quantize, and PATTERN=precision."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Constraints:
    """What the patterns say of each node.

    Args:
        float_nodes: nodes that stay in float, with the reason.
        quantize: nodes that are quantized even where the target or a measurement would leave them in float.
        fp16: nodes that compute in float16, whatever the mode.
        weight_types: node -> the type that its weights are stored in.
        patterns: as the user wrote them.
    """

    float_nodes: Mapping[str, Reason] = field(default_factory=dict)
    quantize: frozenset[str] = frozenset()
    fp16: frozenset[str] = frozenset()
    weight_types: Mapping[str, QType] = field(default_factory=dict)
    patterns: Patterns = field(default_factory=Patterns)

    def forbids_float(self, node: str) -> bool:
        """Whether the user asked for the node to be quantized."""
        return node in self.quantize or node in self.fp16


def match_constraints(view: View, original: ir.Model, scheme: Scheme, patterns: Patterns) -> Constraints:
    """Match patterns with nodes: a node name, a glob over names, or `op:Type`.

    Of several options for one node --set wins over --include, --include over --exclude, and of several
    --set the last. --exclude P is --set P=fp32.

    Args:
        view: the prepared model.
        original: the model as it came, whose nodes a user may name although prepare folded them.
        scheme: the mode and target that they are asked of.
        patterns: what the user wrote.

    Raises:
        UsageError: a pattern that matches nothing, an unknown precision, or one that no match can take.
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


def named(view: View, original: ir.Model, patterns: Sequence[str], option: str) -> tuple[str, ...]:
    """The nodes that any of the patterns matches, in graph order.

    Args:
        view, original: the prepared model, and as it came.
        patterns: node names, globs or op:Type.
        option: what to call them in an error.

    Raises:
        UsageError: one matches nothing.
    """
    folded = _folded(view, original)
    found = {n.name for pattern in patterns for n in _matches(view, folded, pattern, option)}
    return tuple(n.name or "" for n in view.nodes if n.name in found)


def _folded(view: View, original: ir.Model) -> set[str]:
    """The nodes that preparation left nothing of."""
    return {n.name for n in original.graph.all_nodes() if n.name} - set(view.node_by_name)


@dataclass(frozen=True)
class _Request:
    precision: str
    reason: str


def _requests(patterns: Patterns) -> list[tuple[str, str, str]]:
    """(option, pattern, precision), in the order in which later ones win."""
    found = [("--exclude", pattern, "fp32") for pattern in patterns.exclude]
    found += [("--include", pattern, "quantized") for pattern in patterns.include]
    for text in patterns.sets:
        pattern, _, precision = text.rpartition("=")
        if not pattern or precision not in PRECISIONS:
            hint = did_you_mean(precision, PRECISIONS) or f"precisions: {', '.join(PRECISIONS)}"
            raise UsageError(f"--set '{printable(text)}' is not PATTERN=PRECISION", hint)
        found.append(("--set", pattern, precision))
    return found


def _able(node: ir.Node, precision: str, scheme: Scheme) -> bool:
    """Whether a precision means anything for a node: float always, integers by the op's row."""
    rule = rule_of(node)
    match precision:
        case "fp32" | "fp16":
            return True
        case _ if PRECISIONS.get(precision) in FEW_BITS:
            return rule is not None and bool(rule.weight)
        case _:
            return rule is not None and (bool(rule.weight) or scheme.form_of(rule) is not None)


def _constraints(last: Mapping[str, _Request], view: View, scheme: Scheme, patterns: Patterns) -> Constraints:
    """What the last request for each node means in this mode."""
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
        found = [n for n in view.nodes if op_key(n) == wanted]
        present = {op_key(n) for n in view.nodes}
        if not found:
            hint = did_you_mean(wanted, present, "op:") or f"it has: {', '.join(sorted(present))}"
            raise UsageError(f"{option} '{printable(pattern)}': the model has no such op", hint)
        return found
    # fnmatch reads [..] as a set; exporters put brackets in names, so the plain name is tried first.
    found = [n for n in view.nodes if n.name == pattern or fnmatchcase(n.name or "", pattern)]
    if not found and any(name == pattern or fnmatchcase(name, pattern) for name in folded):
        raise UsageError(
            f"{option} '{printable(pattern)}': matches only nodes that preparation folds into others",
            "name the convolution that it follows",
        )
    if not found:
        names = [n.name or "" for n in view.nodes]
        raise UsageError(
            f"{option} '{printable(pattern)}': no node has that name",
            did_you_mean(pattern, names) or "names are globs ('*/conv1/*'); by type: op:Conv",
        )
    return found


def input_ranges(model: ir.Model, texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """What '[INPUT=]LOW,HIGH' says of the float inputs; without a name, of all of them.

    Raises:
        UsageError: not of that form, or no such input.
    """
    floats = [v.name or "" for v in model.graph.inputs if v.dtype == ir.DataType.FLOAT]
    found: dict[str, tuple[float, float]] = {}
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
        found |= dict.fromkeys([name] if name else floats, (lo, hi))
    return found
