"""Assignments that no rule would make, for laws that hold of any."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from hypothesis import strategies as st

from qtool.placement.regions import find_regions
from qtool.plan.assignment import Assignment, PlanInput, assigned_graph
from qtool.plan.prepared import PreparedModel
from qtool.plan.rules import maximal


@st.composite
def subsets(draw: st.DrawFn, task: PlanInput, assignment: Assignment) -> Assignment:
    """Some nodes of an assignment, whether they are worth it or not; all that the user requires."""
    left = sorted(assignment.forms.keys() - task.constraints.quantize)
    gone = draw(_some(left))
    return replace(assignment, forms={n: f for n, f in assignment.forms.items() if n not in gone})


def constrained(model: PreparedModel, data: st.DataObject) -> PreparedModel:
    """The model with a few regions that the user requires to be quantized."""
    regions = find_regions(model.view, assigned_graph(model.task, maximal(model.task)))
    chosen = data.draw(st.lists(st.sampled_from(regions), max_size=2)) if regions else []
    constraints = replace(model.constraints, quantize=frozenset(n for r in chosen for n in r.nodes))
    return replace(model, task=replace(model.task, constraints=constraints))


def _some(names: Collection[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(names)) if names else st.just(frozenset())
