"""In any graph, each node that computes floats is quantized or has its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtool.plan.model import Kind
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import drafted, ready, rules_plan
from tests.targets import COMMON
from tests.tiers import examples

CHANNELS, SIZE = 8, 4
SHAPE = [1, CHANNELS, SIZE, SIZE]


@dataclass
class Grown:
    """A graph in the making; every value in `values` has the shape [1, 8, 4, 4]."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    values: list[str] = field(default_factory=lambda: ["x"])
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(op, inputs, [name], name=f"{op}_{len(self.nodes)}", **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = array
        return name

    def grow(self, kind: str, a: str, b: str) -> None:
        """Add one step that reads a (and b)."""
        square = weights(SIZE, SIZE, seed=len(self.nodes))
        match kind:
            case "Conv":
                w = self.constant(weights(CHANNELS, CHANNELS, 3, 3, seed=len(self.nodes)))
                made = self.add("Conv", [a, w], pads=[1, 1, 1, 1])
            case "Depthwise":
                w = self.constant(weights(CHANNELS, 1, 3, 3, seed=len(self.nodes)))
                made = self.add("Conv", [a, w], pads=[1, 1, 1, 1], group=CHANNELS)
            case "Clip":
                lo, hi = self.constant(np.float32(0)), self.constant(np.float32(6))
                made = self.add("Clip", [a, lo, hi])
            case "MaxPool":
                made = self.add("MaxPool", [a], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case "Concat":
                joined = self.add("Concat", [a, b], axis=1)
                w = self.constant(weights(CHANNELS, 2 * CHANNELS, 1, 1, seed=len(self.nodes)))
                made = self.add("Conv", [joined, w])
            case "Transpose":
                made = self.add("Transpose", [a], perm=[0, 1, 3, 2])
            case "Reshape":
                flat = self.add("Reshape", [a, self.constant(np.array([CHANNELS, -1]))])
                made = self.add("Reshape", [flat, self.constant(np.array(SHAPE))])
            case "Gemm":
                flat = self.add("Reshape", [a, self.constant(np.array([-1, SIZE]))])
                linear = self.add("Gemm", [flat, self.constant(square), self.constant(square[0])])
                made = self.add("Reshape", [linear, self.constant(np.array(SHAPE))])
            case "MatMul":
                made = self.add("MatMul", [a, self.constant(square)])
            case "MatMul2":
                made = self.add("MatMul", [a, b])
            case "Add" | "Mul":
                made = self.add(kind, [a, b])
            case _:
                made = self.add(kind, [a])
        self.values.append(made)


STEPS = (
    "Conv Depthwise Relu Clip Add MaxPool Concat Transpose Reshape Gemm MatMul MatMul2 Sigmoid Mul Softmax Sin"
).split()


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Chains and branches of the ops that matter."""
    grown = Grown()
    for _ in range(draw(st.integers(1, 10))):
        # Mostly the newest value, so that chains form; now and then an old one, so that branches do.
        newest = st.just(grown.values[-1])
        pick = st.one_of(newest, newest, st.sampled_from(grown.values))
        grown.grow(draw(st.sampled_from(STEPS)), draw(pick), draw(st.sampled_from(grown.values)))
    extra = draw(st.lists(st.sampled_from(grown.values[1:]), max_size=2, unique=True))
    outputs = list(dict.fromkeys([*extra, grown.values[-1]]))
    return model(grown.nodes, {"x": SHAPE}, outputs, grown.constants)


SLOW = settings(max_examples=examples(25), deadline=None, suppress_health_check=list(HealthCheck))


@SLOW
@given(graphs(), st.sampled_from(sorted(COMMON)))
def test_every_computing_node_is_quantized_or_skipped_with_a_reason(
    proto: onnx.ModelProto, target: str
) -> None:
    job = ready(proto, target)
    plan = rules_plan(job)
    skipped = [s.node for s in plan.skips]
    assert len(skipped) == len(set(skipped))
    assert not plan.forms.keys() & set(skipped)
    assert plan.forms.keys() | set(skipped) == {n.name for n in job.view.nodes}
    assert all(str(s.reason) and s.op == job.view.node_by_name[s.node].op_type for s in plan.skips)


@SLOW
@given(graphs(), st.sampled_from(sorted(COMMON)))
def test_plans_are_well_formed(proto: onnx.ModelProto, target: str) -> None:
    """Sites name what exists, each use once; int8 nodes read int8 on every activation input."""
    job = ready(proto, target)
    plan = rules_plan(job)
    activations = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
    uses = [u for s in plan.sites if s.uses is not None for u in s.uses]
    assert len(uses) == len(set(uses))
    for site in plan.sites:
        assert site.value in job.view.values
        for name, index in site.uses or ():
            assert job.view.node_by_name[name].inputs[index].name == site.value
    for site in activations.values():
        same = [s for s in activations.values() if s.group == site.group]
        assert len({s.spec for s in same}) == 1
    for name in plan.forms:
        source = job.view.node_by_name[name].inputs[0]
        producer = source.producer()
        folds = producer is not None and producer.name in plan.forms and source.name not in activations
        assert folds or source.name in activations


@settings(SLOW, max_examples=examples(5))
@given(graphs(), st.sampled_from(sorted(COMMON)))
def test_drafting_twice_gives_the_same_plan(proto: onnx.ModelProto, target: str) -> None:
    assert drafted(proto, target) == drafted(proto, target)
