"""The audit of a written model: the kernels that onnxruntime runs, held against the plan."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from qtool.errors import ModelError
from qtool.graph.save import LARGE_BYTES, Staging, tensor_bytes
from qtool.graph.view import View, sole_consumer
from qtool.plan.barriers import missing_barriers
from qtool.plan.candidate import Candidate
from qtool.plan.eligible import rule_of
from qtool.plan.model import Dequantizer, Kind, Plan
from qtool.rewrite.write import written
from qtool.runtime.audit import CONVERSIONS, LAYOUT, Kernel, owner_of, read_kernels
from qtool.runtime.session import Session
from qtool.tables.forms import Form
from qtool.tables.ops import Q_MOVES_UP_THROUGH, SLOW_KERNELS, Role
from qtool.tables.qtypes import PerChannel

# Files are written anew with more barriers at most as often.
_ROUNDS = 2
# They do the same in integers and in floats.
_MOVES = Q_MOVES_UP_THROUGH - {"MaxPool"}
_INTEGER_FORMS = (Form.INT8, Form.DYNAMIC, Form.NBITS)
_WITH_WEIGHTS = (Role.WEIGHTED, Role.RECURRENT)
# Rounding in other places changes SQNR by less: at most 0.9 dB on the models of sample_models (2026-11-30).
_ALARM_DB = 3.0
_CAUSE = "its int8 kernels saturate (a CPU without VNNI needs --target cpu-avx2), or nodes are fused wrongly"
# Steps from a node to the kernel that it is part of.
_MOST_STEPS = 8


@dataclass(frozen=True)
class Deviation:
    """A node that the runtime runs in another way than planned.

    Args:
        node, op: its name and op type.
        planned: 'float', or the value of its form.
        kernels: the ops of the runtime that run it.
        what: the difference, in words.
        exact: the result is the one that the file describes, and not slower.
    """

    node: str
    op: str
    planned: str
    kernels: tuple[str, ...]
    what: str
    exact: bool = False

    def __str__(self) -> str:
        return f"{self.op} '{self.node}' {self.what} ({', '.join(self.kernels)})"


@dataclass(frozen=True)
class Audit:
    """The outcome for the file that was written.

    Args:
        kernels: number of kernels that the runtime has for it.
        deviations: from the plan, in graph order.
        barriers: values that got a fusion barrier because of an earlier deviation.
        sqnr, unoptimized: SQNR in dB of the worst output on a few samples of the select set, with and without
            the runtime's graph optimizations; None: not measured.
    """

    kernels: int
    deviations: tuple[Deviation, ...] = ()
    barriers: tuple[str, ...] = ()
    sqnr: float | None = None
    unoptimized: float | None = None

    @property
    def harmful(self) -> tuple[Deviation, ...]:
        """The deviations that change results, or cost time."""
        return tuple(d for d in self.deviations if not d.exact)

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for nodes that deviate, one for outputs that the optimizations change."""
        lines, harmful = [], self.harmful
        if harmful:
            more = f" and {len(harmful) - 1} more (-v lists them)" if len(harmful) > 1 else ""
            lines.append(f"onnxruntime does not run all nodes as planned: {harmful[0]}{more}")
        with_, without = self.sqnr, self.unoptimized
        if with_ is not None and without is not None and with_ < without - _ALARM_DB:
            lines.append(
                f"SQNR is {with_:.1f} dB with onnxruntime's graph optimizations and {without:.1f} dB "
                f"without: {_CAUSE}"
            )
        return tuple(lines)


Fidelity = Callable[[Candidate, bool], float | None]
"""Returns the SQNR of a candidate, run with the runtime's optimizations or without them; None: unknown."""


def write_audited(
    candidate: Candidate, staging: Staging, fidelity: Fidelity, *, mend: bool
) -> tuple[Candidate, Audit | None]:
    """Write the file of a candidate, and write it anew with fusion barriers where the runtime needs them.

    Args:
        candidate: the chosen one.
        staging: of the file.
        fidelity: of a candidate.
        mend: whether barriers may be added: a plan that is replayed stays as it is.

    Returns:
        the candidate that was written, and its audit; None where the plan is not for onnxruntime's kernels.
    """
    model = candidate.model
    staging.write(written(model.model, candidate.plan))
    if not model.scheme.target.onnxruntime or model.scheme.form is Form.FLOAT16:
        return candidate, None
    large = tensor_bytes(model.model) > LARGE_BYTES
    if large and (not candidate.plan.forms or model.samples.judge is None):
        return candidate, None  # to open it would fold its weights, in several times the memory of its floats
    view, added = model.view, list[str]()
    try:
        outcome = audit(staging.path, view, candidate.plan, model.threads)
    except ModelError:  # judging the file says what is wrong with it
        return candidate, None
    for _ in range(_ROUNDS if mend else 0):
        edits = missing_barriers(view, candidate.plan, [d.node for d in outcome.harmful])
        if not edits:
            break
        changed = replace(candidate, plan=replace(candidate.plan, edits=(*edits, *candidate.plan.edits)))
        staging.write(written(model.model, changed.plan))
        after = audit(staging.path, view, changed.plan, model.threads)
        if len(after.harmful) >= len(outcome.harmful):
            staging.write(written(model.model, candidate.plan))
            break
        candidate, outcome = changed, after
        added += [e.value for e in edits]
    if candidate.plan.forms:
        outcome = replace(outcome, sqnr=fidelity(candidate, True), unoptimized=fidelity(candidate, False))
    return candidate, replace(outcome, barriers=tuple(added))


def audit(path: Path, view: View, plan: Plan, threads: int = 0) -> Audit:
    """Open a written model as users do, and return where the runtime deviates from the plan.

    Raises:
        ModelError: the runtime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="qtool-audit-") as folder:
        graph = Path(folder, "optimized.onnx")
        Session(path, threads=threads, name="the quantized model", optimized=graph)
        kernels = read_kernels(graph)
    return Audit(len(kernels), tuple(deviations(view, plan, kernels)))


def deviations(view: View, plan: Plan, kernels: Sequence[Kernel]) -> Iterator[Deviation]:
    """Yield the deviations of kernels from a plan, in graph order."""
    by_node = _kernels_of(view, kernels)
    floats = {skip.node for skip in plan.skips} - plan.forms.keys()
    floats -= {name for s in plan.sites if s.kind is Kind.LOOKUP for name, _ in s.uses or ()}
    per_channel = _per_channel(plan)
    converted = _converted(plan, kernels)
    biases = _added_biases(plan)
    for node in view.nodes:
        name, rule = node.name or "", rule_of(node)
        form, own = plan.forms.get(name), by_node.get(name, [])
        has_weights = rule is not None and rule.role in _WITH_WEIGHTS
        folds = rule is not None and rule.role is Role.EPILOGUE
        planned = "float" if form is None else form.value
        ops = tuple(dict.fromkeys(k.op for k in own))
        if form is Form.INT8 or (form in _INTEGER_FORMS and has_weights):
            own = own if own or folds else _fused_kernels(node, by_node)
            ops = tuple(dict.fromkeys(k.op for k in own))
            if own and not any(k.integer for k in own) and name not in biases:
                yield Deviation(name, node.op_type, planned, ops, "runs in float")
            elif name in per_channel and any(k.weight_scales == 1 for k in own):
                yield Deviation(
                    name, node.op_type, planned, ops, "has one scale for its weight, not one a channel"
                )
        elif name in floats and not folds and node.op_type not in _MOVES:
            if any(k.integer for k in own):
                # Between a DQ and a Q, an op without weight computes in integers what it would in floats.
                exact = not has_weights and not SLOW_KERNELS & {k.op for k in own if k.integer}
                yield Deviation(name, node.op_type, planned, ops, "runs in int8", exact)
            elif name in converted:
                what = "turns its stored weight into floats at every run"
                yield Deviation(name, node.op_type, planned, converted[name], what)


def _per_channel(plan: Plan) -> set[str]:
    """Return the nodes whose weight has several scales."""
    return {
        name
        for s in plan.sites
        if s.kind in (Kind.WEIGHT, Kind.FUSED) and isinstance(s.spec.granularity, PerChannel)
        for name, _ in s.uses or ()
        if s.qparams is not None and s.qparams.scale.size > 1
    }


def _added_biases(plan: Plan) -> set[str]:
    """Return the Adds of an int32 bias, which the runtime may leave in float behind an int8 product."""
    biases = (s for s in plan.sites if s.kind is Kind.BIAS and s.scale_from is not None)
    return {name for s in biases for name, _ in s.uses or () if s.scale_from and name != s.scale_from[1]}


def _converted(plan: Plan, kernels: Sequence[Kernel]) -> dict[str, tuple[str, ...]]:
    """Return the nodes whose stored weight should be floats once the model is loaded, and is not."""
    stored = {
        s.value: s.uses or ()
        for s in plan.sites
        if s.kind is Kind.STORED and s.dequantizer is Dequantizer.CAST_MUL
    }
    owners = {name: name for name in stored}
    return {
        node: (kernel.op,)
        for kernel in kernels
        if kernel.op in CONVERSIONS
        for constant in kernel.converted
        if (value := owner_of(constant, owners)) is not None
        for node, _ in stored[value]
    }


def _kernels_of(view: View, kernels: Sequence[Kernel]) -> dict[str, list[Kernel]]:
    """Return the kernels of each node of the prepared graph, by their names and those of their outputs."""
    by_node: dict[str, list[Kernel]] = defaultdict(list)
    owners = view.owners
    for kernel in kernels:
        if kernel.op in CONVERSIONS or kernel.op in LAYOUT:
            continue
        names = (kernel.name, *kernel.outputs)
        for owner in dict.fromkeys(owner_of(name, owners) for name in names if name):
            if owner is not None:
                by_node[owner].append(kernel)
    return by_node


def _fused_kernels(node: ir.Node, by_node: Mapping[str, list[Kernel]]) -> list[Kernel]:
    """Return the kernels that a node without its own is fused into: those of the next node that has some."""
    at: ir.Node | None = node
    for _ in range(_MOST_STEPS):
        at = sole_consumer(at.outputs[0]) if at is not None and at.outputs else None
        if at is None:
            break
        if own := by_node.get(at.name or ""):
            return own
    return []
