"""The flow up to a resolved plan, stage by stage and without timing, for tests of plan and rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from qtool.calibrate.ranges import Ranges
from qtool.calibrate.runner import calibrate
from qtool.data.memory import InMemory
from qtool.graph.load import from_model
from qtool.graph.prepare import prepare
from qtool.graph.view import View
from qtool.plan.draft import draft
from qtool.plan.model import Kind, Plan, Site, Wishes
from qtool.plan.resolve import resolve
from qtool.plan.scheme import Choices, Scheme, settle
from qtool.plan.unfit import unfit_nodes
from qtool.plan.wishes import Asked, wishes
from qtool.tables.targets import Target

Sample = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Ready:
    """A prepared model with everything that a draft needs."""

    model: ir.Model
    view: View
    scheme: Scheme
    wish: Wishes

    def draft(self) -> Plan:
        return draft(self.view, self.scheme, self.wish)


def ready(
    proto: onnx.ModelProto,
    target: str | Target = "cpu",
    *,
    mode: str = "static",
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    sets: Sequence[str] = (),
    **choices: Any,
) -> Ready:
    """Load and prepare a model for a mode and a target."""
    scheme = settle(mode, target if isinstance(target, str) else target.name, Choices(**choices), sets)
    if isinstance(target, Target):
        scheme = replace(scheme, target=target)
    source = from_model(proto)
    prepared = prepare(
        source.model,
        onnxruntime=scheme.target.onnxruntime,
        opset=scheme.opset,
        requantize=choices.get("requantize", False),
    ).model
    view = View(prepared)
    return Ready(prepared, view, scheme, wishes(view, source.model, scheme, Asked(exclude, include, sets)))


def drafted(proto: onnx.ModelProto, target: str | Target = "cpu", **asked: Any) -> Plan:
    """The plan without scales."""
    return ready(proto, target, **asked).draft()


@dataclass(frozen=True)
class Settled:
    """A resolved plan, and what it was made of."""

    ready: Ready
    plan: Plan
    ranges: Ranges


def settled(
    proto: onnx.ModelProto, samples: Sequence[Sample], target: str | Target = "cpu", **asked: Any
) -> Settled:
    """Draft, calibrate, draft again without what is unfit, resolve: as the pipeline does it."""
    job = ready(proto, target, **asked)
    source = InMemory(list(samples), len(samples))
    for _ in range(len(job.view.nodes) + 1):
        plan = job.draft()
        todo = [v for v in plan.observed if job.view.in_main(job.view.values[v])]
        ranges = calibrate(job.model, todo, source, threads=1) if todo else {}
        unfit = unfit_nodes(plan, ranges, job.view, job.scheme.mode)
        if not unfit:
            resolved = resolve(plan, ranges, job.view)
            return Settled(job, replace(resolved, choices=Choices(**_choices(asked))), ranges)
        job = replace(job, wish=replace(job.wish, keep_float={**unfit, **job.wish.keep_float}))
    raise AssertionError("putting unfit nodes back to float never ends")


def _choices(asked: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(Choices)}
    return {k: v for k, v in asked.items() if k in known}


def sites(plan: Plan, kind: Kind) -> dict[str, Site]:
    """The sites of a kind by value; a value with two sites of the kind is an error of the test."""
    found = [s for s in plan.sites if s.kind is kind]
    by_value = {s.value: s for s in found}
    assert len(by_value) == len(found), [s.value for s in found]
    return by_value


def reasons(plan: Plan) -> dict[str, str]:
    """Node -> why it stays in float."""
    return {s.node: s.reason for s in plan.skips}
