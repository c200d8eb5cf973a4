"""The flow up to a resolved plan, without timing, for tests of plan and rewrite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from qtool.commands.prepare import NO_SAMPLES, prepare_model
from qtool.data.iterables import InMemory
from qtool.data.split import SampleSets
from qtool.options import Options
from qtool.plan.candidate import Candidate, make_candidate
from qtool.plan.draft import draft
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import rule_based
from qtool.tables.targets import TARGETS, Target

Sample = Mapping[str, np.ndarray]


def all_one(samples: Sequence[Sample]) -> SampleSets:
    """Samples that set ranges, select and judge."""
    source = InMemory(list(samples))
    return SampleSets(source, source, source, False, False)


def prepared(
    proto: onnx.ModelProto,
    samples: Sequence[Sample] = (),
    target: str | Target = "cpu",
    **options: Any,
) -> PreparedModel:
    """Prepare a model for a target, which may be one of the test's own."""
    name = target if isinstance(target, str) else target.name
    sets = all_one(samples) if samples else NO_SAMPLES
    row = name if name in TARGETS else "cpu"
    model = prepare_model(proto, Options(target=row, threads=1, **options), sets=sets)
    if isinstance(target, str):
        return model
    task = replace(model.task, scheme=replace(model.scheme, target=target))
    return replace(model, task=task, ranges=model.memo_of(model.model, task))


def ready(proto: onnx.ModelProto, target: str | Target = "cpu", **options: Any) -> PreparedModel:
    """Load and prepare a model for a mode and a target, without samples."""
    return prepared(proto, (), target, **options)


def rules_plan(model: PreparedModel) -> Plan:
    """The rule-based plan, without scales."""
    return draft(model.task, rule_based(model.task))


def drafted(proto: onnx.ModelProto, target: str | Target = "cpu", **options: Any) -> Plan:
    """The rule-based plan of a model, without scales."""
    return rules_plan(ready(proto, target, **options))


def candidate(
    proto: onnx.ModelProto, samples: Sequence[Sample], target: str | Target = "cpu", **options: Any
) -> Candidate:
    """The rule-based candidate, resolved."""
    model = prepared(proto, samples, target, **options)
    return make_candidate(model, rule_based(model.task))


def sites(plan: Plan, kind: Kind) -> dict[str, Site]:
    """The sites of a kind by value; a value with two sites of the kind is an error of the test."""
    of_kind = [s for s in plan.sites if s.kind is kind]
    by_value = {s.value: s for s in of_kind}
    assert len(by_value) == len(of_kind), [s.value for s in of_kind]
    return by_value


def reasons(plan: Plan) -> dict[str, str]:
    """Node -> why it stays in float."""
    return {s.node: str(s.reason) for s in plan.skips}
