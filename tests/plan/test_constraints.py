"""What the user asks for: it wins over the tables, and what matches nothing is an error."""

from __future__ import annotations

import onnx
import pytest

from qtool.errors import UsageError
from qtool.tables.targets import TARGETS
from tests.graphs import node, weights
from tests.plan.build import model
from tests.plan.flow import candidate, drafted, ready, reasons, rules_plan
from tests.rewrite.zoo import CASES

CONV3 = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
IMAGE = {"x": [1, 16, 8, 8]}


def three(*names: str) -> onnx.ModelProto:
    """Three convolutions in a row, of these names."""
    values = ["x", "a", "b", "y"]
    nodes = []
    for index, name in enumerate(names):
        made = node("Conv", [values[index], f"w{index}"], [values[index + 1]], **CONV3)
        made.name = name
        nodes.append(made)
    return model(nodes, IMAGE, ["y"], {f"w{i}": weights(16, 16, 3, 3, seed=i) for i in range(3)})


PATTERNS = {
    "name": ("head/one", {"head/one"}),
    "glob": ("head/*", {"head/one", "head/two"}),
    "question mark": ("head/t?o", {"head/two"}),
    "op": ("op:Conv", {"body", "head/one", "head/two"}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("pattern", "wanted"), PATTERNS.values(), ids=PATTERNS)
def test_exclude_keeps_what_it_matches_in_float_and_nothing_else(
    target: str, pattern: str, wanted: set[str]
) -> None:
    plan = drafted(three("body", "head/one", "head/two"), target, exclude=[pattern])
    assert {"body", "head/one", "head/two"} - plan.forms.keys() == wanted
    assert all(pattern in reasons(plan)[name] for name in wanted)


def test_brackets_in_a_name_are_taken_at_their_word() -> None:
    plan = drafted(three("conv[0]", "conv[1]", "conv0"), exclude=["conv[0]"])
    assert "conv[0]" not in plan.forms
    assert "conv[1]" in plan.forms


@pytest.mark.parametrize("option", ["exclude", "include"])
@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("head/onne", "head/one"), ("op:Covn", "op:Conv"), ("nothing/*", "op:Conv"), ("op:Gemm", "Conv")],
)
def test_a_pattern_that_matches_nothing_is_an_error_with_a_hint(option: str, pattern: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        drafted(three("body", "head/one", "head/two"), **{option: [pattern]})
    assert pattern in caught.value.message
    assert hint.replace("'", "") in caught.value.hint.replace("'", "")


def test_a_folded_node_is_named_as_such() -> None:
    with pytest.raises(UsageError, match="folds"):
        drafted(CASES["conv-bn-relu6"].build(), exclude=["BatchNormalization_b0"])


STEM = [node("Conv", ["x", "w"], ["y"], name="stem", **CONV3)]


def stem() -> onnx.ModelProto:
    return model(STEM, {"x": [1, 3, 8, 8]}, ["y"], {"w": weights(16, 3, 3, 3)})


@pytest.mark.parametrize("target", [t for t, row in TARGETS.items() if row.onnxruntime])
@pytest.mark.parametrize("pattern", ["stem", "st*", "op:Conv"])
def test_include_overrides_the_target(target: str, pattern: str) -> None:
    assert "stem" not in drafted(stem(), target).forms
    assert "stem" in drafted(stem(), target, include=[pattern]).forms


@pytest.mark.parametrize("target", TARGETS)
def test_exclude_wins_over_the_table(target: str) -> None:
    plan = drafted(CASES["mlp-gemm"].build(), target, exclude=["op:Gemm"])
    assert not [n for n in plan.forms if n.startswith("Gemm")]


def test_exclude_and_include_together_leave_the_rest_to_the_target() -> None:
    plan = drafted(three("a", "b", "c"), exclude=["op:Conv"], include=["b"])
    assert {"a", "c"}.isdisjoint(plan.forms)
    assert "b" in plan.forms


def test_including_what_has_no_quantized_form_is_an_error() -> None:
    nodes = [node("Sin", ["x"], ["s"], name="sine"), node("Conv", ["s", "w"], ["y"], **CONV3)]
    proto = model(nodes, IMAGE, ["y"], {"w": weights(16, 16, 3, 3)})
    with pytest.raises(UsageError, match="no quantized form"):
        drafted(proto, include=["sine"])


def test_include_overrides_what_calibration_finds_only_in_speed_not_in_sense() -> None:
    """A node that calibration never ran can't be forced: there is no range."""
    case = CASES["embedding"]
    empty = [{"ids": s["ids"][:, :0]} for s in case.samples()]
    done = candidate(case.build(), empty, "cpu", include=["MatMul_y"])
    assert "MatMul_y" not in done.plan.forms
    assert "never executed" in reasons(done.plan)["MatMul_y"]


@pytest.mark.parametrize("name", ["node_conv2d_1", "node_", "Conv_1"])
def test_a_name_that_the_user_can_read_in_the_model_means_that_node(name: str) -> None:
    """torch's dynamo exporter calls every node `node_...`; unnamed ones must not take a name away."""
    job = ready(three("", "", name), exclude=[name])
    (skip,) = rules_plan(job).skips
    weight = job.view.node_by_name[skip.node].inputs[1]
    assert weight is not None
    assert weight.name == "w2", "another node was excluded"
    assert skip.node == name
