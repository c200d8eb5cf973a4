"""What the user asks for, against the nodes that are there."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from qtool.errors import UsageError, did_you_mean, printable
from qtool.graph.view import View, op_key
from qtool.plan.eligible import rule_of
from qtool.plan.model import Wishes


def wishes(view: View, original: ir.Model, exclude: Sequence[str], include: Sequence[str]) -> Wishes:
    """Match patterns with nodes: a node name, a glob over names, or `op:Type`.

    Args:
        view: the prepared model.
        original: the model as it came, whose nodes a user may name although prepare folded them.
        exclude: what stays in float.
        include: what is quantized even where the target would rather not.

    Raises:
        UsageError: a pattern that matches nothing, or an include that can't be quantized at all.
    """
    folded = {n.name for n in original.graph.all_nodes() if n.name} - set(view.node_by_name)
    keep: dict[str, str] = {}
    for pattern in exclude:
        for node in _matches(view, folded, pattern, "--exclude"):
            keep[node.name or ""] = f"excluded by '{pattern}'"
    force: set[str] = set()
    for pattern in include:
        matched = _matches(view, folded, pattern, "--include")
        possible = [n for n in matched if rule_of(n) is not None]
        if matched and not possible:
            raise UsageError(f"--include '{pattern}': {op_key(matched[0])} has no quantized form")
        force.update(n.name or "" for n in possible)
    return Wishes({k: r for k, r in keep.items() if k not in force}, frozenset(force))


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
