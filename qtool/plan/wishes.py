"""What the user asks for, against the nodes that are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean, printable
from qtool.graph.view import View, op_key
from qtool.plan.eligible import rule_of
from qtool.plan.model import Wishes
from qtool.plan.scheme import PRECISIONS, Scheme
from qtool.tables.forms import Form
from qtool.tables.modes import FEW_BITS
from qtool.tables.qtypes import QType


@dataclass(frozen=True)
class Asked:
    """What the user asks of nodes: patterns to keep in float, to quantize, and PATTERN=precision."""

    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    sets: Sequence[str] = ()


def wishes(view: View, original: ir.Model, scheme: Scheme, asked: Asked) -> Wishes:
    """Match patterns with nodes: a node name, a glob over names, or `op:Type`.

    Of the wishes for one node --set wins over --include, --include over --exclude, and of several
    --set the last. --exclude P is --set P=fp32.

    Args:
        view: the prepared model.
        original: the model as it came, whose nodes a user may name although prepare folded them.
        scheme: the mode and target that they are asked of.
        asked: the patterns.

    Raises:
        UsageError: a pattern that matches nothing, an unknown precision, or one that no match can take.
    """
    folded = _folded(view, original)
    last: dict[str, _Wish] = {}
    for option, pattern, precision in _requests(asked):
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
            last[node.name or ""] = _Wish(precision, f"{verb} by '{pattern}'")
    return _sorted_out(last, view, scheme)


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
class _Wish:
    precision: str
    reason: str


def _requests(asked: Asked) -> list[tuple[str, str, str]]:
    """(option, pattern, precision), in the order in which later ones win."""
    found = [("--exclude", pattern, "fp32") for pattern in asked.exclude]
    found += [("--include", pattern, "quantized") for pattern in asked.include]
    for text in asked.sets:
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


def _sorted_out(last: Mapping[str, _Wish], view: View, scheme: Scheme) -> Wishes:
    """What each node's last wish comes to in this mode."""
    keep: dict[str, str] = {}
    force: set[str] = set()
    half: set[str] = set()
    weights: dict[str, QType] = {}
    for name, wish in last.items():
        if wish.precision in PRECISIONS:
            weights[name] = PRECISIONS[wish.precision]
        rule = rule_of(view.node_by_name[name])
        quantizes = rule is not None and scheme.form_of(rule) is not None
        integer = wish.precision in ("int8", "quantized")
        few = PRECISIONS.get(wish.precision) in FEW_BITS
        if quantizes and (integer or (few and scheme.form is Form.NBITS)):
            force.add(name)
        elif wish.precision != "quantized":
            keep[name] = wish.reason
        if wish.precision == "fp16":
            half.add(name)
    return Wishes(keep, frozenset(force), frozenset(half), weights)


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
