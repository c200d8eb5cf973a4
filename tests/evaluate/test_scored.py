"""Outputs that are scored by argmax: found in the graph, measured, judged by default gates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from qtool.evaluate.compare import Comparison
from qtool.evaluate.criteria import Criteria, task_gates
from qtool.evaluate.gates import GateResult, Verdict, judge, parse
from qtool.evaluate.labels import Accuracy
from qtool.evaluate.output_metrics import OutputAccumulator, OutputMetrics
from qtool.evaluate.scored import Scored, scored_outputs
from qtool.graph.load import from_model
from qtool.numerics.metrics import TOLERANCE
from qtool.tables.judging import TaskName
from tests.graphs import node
from tests.plan.build import model

MAP = ["N", 5, 4, 6]
SHAPE = {"s": np.array([0, 5, 24])}
ONE = {"one": np.array([1])}
ENDINGS: dict[str, tuple[list[onnx.NodeProto], list[object], dict[str, np.ndarray], Scored | None]] = {
    "softmax": ([node("Softmax", ["x"], ["y"])], ["N", 9], {}, Scored("classify")),
    "steps": ([node("Softmax", ["x"], ["y"], axis=2)], ["N", 7, 9], {}, Scored("")),
    "log": ([node("LogSoftmax", ["x"], ["y"], axis=1)], ["N", 9], {}, Scored("classify")),
    "pixels": ([node("Softmax", ["x"], ["y"], axis=1)], MAP, {}, Scored("classify", -3)),
    "moved": (
        [node("Softmax", ["x"], ["t"], axis=1), node("Transpose", ["t"], ["y"], perm=[0, 2, 3, 1])],
        MAP, {}, Scored("classify", -1),
    ),
    "reshaped": (
        [node("Softmax", ["x"], ["t"], axis=1), node("Reshape", ["t", "s"], ["y"])], MAP, SHAPE, Scored("", -2)
    ),
    "argmax": ([node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], MAP, {}, Scored("classify", None, 5)),
    "in parts": (
        [node("Exp", ["x"], ["e"]), node("ReduceSum", ["e", "one"], ["t"]), node("Div", ["e", "t"], ["y"])],
        ["N", 9], ONE, Scored("classify", -1),
    ),
    "in parts, expanded": (
        [
            node("Exp", ["x"], ["e"]), node("ReduceSum", ["e", "one"], ["t"], keepdims=0),
            node("Reshape", ["t", "column"], ["c"]), node("Expand", ["c", "wide"], ["d"]), node("Div", ["e", "d"], ["y"]),
        ],
        ["N", 9], {**ONE, "column": np.array([-1, 1]), "wide": np.array([1, 9])}, Scored("classify", -1),
    ),
    "another quotient": ([node("Exp", ["x"], ["e"]), node("Div", ["e", "x"], ["y"])], ["N", 9], {}, None),
    "scores": ([node("Relu", ["x"], ["y"])], ["N", 9], {}, None),
}  # fmt: skip


def scored_by(
    nodes: list[onnx.NodeProto], shape: list[object], constants: dict[str, np.ndarray], task: TaskName = ""
) -> dict[str, Scored]:
    proto = model(nodes, {"x": shape}, ["y"], constants)
    return scored_outputs(from_model(onnx.shape_inference.infer_shapes(proto)).model, task)


@pytest.mark.parametrize(("nodes", "shape", "constants", "wanted"), ENDINGS.values(), ids=ENDINGS)
def test_the_last_op_decides_how_an_output_is_scored(
    nodes: list[onnx.NodeProto], shape: list[object], constants: dict[str, np.ndarray], wanted: Scored | None
) -> None:
    assert scored_by(nodes, shape, constants) == ({} if wanted is None else {"y": wanted})


def test_attention_weights_are_not_scored() -> None:
    nodes = [node("Softmax", ["x"], ["y"]), node("MatMul", ["y", "x"], ["z"])]
    proto = model(nodes, {"x": ["N", 4, 4]}, ["y", "z"], {})
    assert scored_outputs(from_model(proto).model) == {}


def test_the_first_float_output_is_scored_where_only_the_user_names_a_task() -> None:
    assert scored_by([node("Relu", ["x"], ["y"])], ["N", 7, 9], {}, "ctc") == {"y": Scored("ctc")}


def test_scores_beside_boxes_are_classes_of_their_own() -> None:
    """A detector's background is as frequent as a blank."""
    nodes = [node("Softmax", ["x"], ["y"]), node("Relu", ["x"], ["boxes"])]
    proto = model(nodes, {"x": ["N", 7, 4]}, ["y", "boxes"], {})
    assert scored_outputs(from_model(proto).model) == {"y": Scored("classify")}


def scores(steps: list[int], classes: int = 5) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[steps][None]


def measured(scored: Scored | None, *pairs: tuple[np.ndarray, np.ndarray]) -> OutputMetrics:
    accumulator = OutputAccumulator("y", ["N", "T", "C"], TOLERANCE, scored)
    for number, (a, b) in enumerate(pairs):
        accumulator.add(str(number), a, b)
    return accumulator.metrics()


TEXT = scores([4, 1, 4, 2, 2, 4])
SAME_TEXT = scores([4, 1, 1, 4, 2, 4])
OTHER_TEXT = scores([4, 1, 4, 3, 3, 4])
LABELS = scores([1, 2, 3, 1, 2, 3])


@pytest.mark.parametrize(
    ("scored", "pairs", "task", "unchanged"),
    [
        (Scored("ctc"), [(TEXT, SAME_TEXT), (TEXT, OTHER_TEXT)], "ctc", 0.5),
        (Scored("tokens"), [(TEXT, SAME_TEXT), (TEXT, TEXT)], "tokens", 0.5),
        (Scored(""), [(TEXT, SAME_TEXT), (TEXT, TEXT)], "ctc", 1.0),
        (Scored("ctc", -2), [(TEXT.swapaxes(1, 2), SAME_TEXT.swapaxes(1, 2))], "ctc", 1.0),
        (Scored("ctc"), [(TEXT.swapaxes(0, 1), SAME_TEXT.swapaxes(0, 1))], "ctc", 1.0),
        (Scored("tokens", None), [(TEXT.argmax(-1), TEXT.argmax(-1)), (TEXT.argmax(-1), OTHER_TEXT.argmax(-1))], "tokens", 0.5),
    ],
    ids=["ctc", "tokens", "found by blanks", "classes before steps", "steps before the batch", "class numbers"],
)  # fmt: skip
def test_sequences_are_counted_whole(
    scored: Scored, pairs: list[tuple[np.ndarray, np.ndarray]], task: str, unchanged: float
) -> None:
    output = measured(scored, *pairs)
    assert (output.task, output.unchanged) == (task, unchanged)


def test_steps_without_blanks_are_classes() -> None:
    output = measured(Scored(""), (LABELS, scores([1, 2, 3, 1, 2, 1])))
    assert (output.task, output.sequences, output.rows, output.top1) == ("classify", 0, 6, 5 / 6)


def test_agreement_is_along_the_axis_of_the_classes() -> None:
    a, b = (np.moveaxis(v, -1, 1) for v in (TEXT, OTHER_TEXT))
    assert measured(Scored("classify", -2), (a, b)).top1 == 4 / 6


def test_errors_are_magnified_to_see_changes_that_few_samples_do_not_show() -> None:
    a = np.array([[[0.6, 0.4], [0.9, 0.1]]], np.float32)
    near = a + np.array(
        [[[-0.06, 0.06], [0.06, -0.06]]], np.float32
    )  # 4 times that, and the first row changes
    output = measured(Scored("classify"), (a, near), (a, a))
    assert (output.top1, output.magnified, output.decisions) == (1.0, 1, 4)
    output = measured(Scored("tokens"), (a, near), (a, a))
    assert (output.unchanged, output.magnified, output.decisions) == (1.0, 1, 2)


@pytest.mark.parametrize(
    ("output", "in_float", "magnified", "kept"),
    [
        ("classes", False, 24, True),
        ("classes", False, 26, False),
        ("texts", False, 9, True),
        ("texts", False, 10, False),
        ("texts", True, 3, True),
        ("texts", True, 4, False),
    ],
)
def test_choices_keep_predictions_under_magnified_errors(
    output: str, in_float: bool, magnified: int, kept: bool
) -> None:
    """Of 200 decisions 3% or 1% may change, 4 times as many if errors are magnified; one may be chance.

    Stored weights, which gain no speed, may change a quarter of that.
    """
    measures = replace(CLASSES if output == "classes" else TEXTS, magnified=magnified)
    comparison = Comparison("eval", 10, (measures,))
    broken = Criteria(20.0, keeps_task=True).broken(comparison, in_float=in_float)
    assert (broken == []) == kept
    assert all("predicted" in limit.why and limit.excess > 1 for limit in broken)


def gates_of(output: OutputMetrics, *own: str, accuracy: Accuracy | None = None) -> dict[str, GateResult]:
    comparison = Comparison("eval", 10, (output,), accuracy)
    results = judge(task_gates(comparison, [parse(t) for t in own]), Verdict(comparison))
    return {result.gate.text: result for result in results}


CLASSES = replace(measured(Scored("classify"), (TEXT, TEXT)), rows=200, top1=1.0)
TEXTS = replace(measured(Scored("ctc"), (TEXT, TEXT)), sequences=200, unchanged=1.0)


@pytest.mark.parametrize(
    ("output", "failed"),
    [
        (replace(CLASSES, top1=0.97), False),
        (replace(CLASSES, top1=0.95), False),
        (replace(CLASSES, top1=0.94), True),
        (replace(TEXTS, unchanged=0.98), False),
        (replace(TEXTS, unchanged=0.96), True),
        (replace(TEXTS, unchanged=0.5, sequences=2), True),
        (replace(TEXTS, unchanged=0.5, sequences=0), False),
    ],
)
def test_a_default_gate_on_decisions_fails_only_where_the_interval_shows_it(
    output: OutputMetrics, failed: bool
) -> None:
    assert any(result.failed for result in gates_of(output).values()) == failed


def test_an_output_that_is_not_scored_has_no_default_gate() -> None:
    assert gates_of(replace(CLASSES, task="")) == {}


def test_labels_judge_classes_in_place_of_their_agreement() -> None:
    """Half of the classes change, and as many become right as wrong."""
    accuracy = Accuracy(0.9, 0.9, 200, 200, lost=50, won=50, output="y", classes=5)
    (result,) = gates_of(replace(CLASSES, top1=0.5), accuracy=accuracy).values()
    assert (result.gate.text, result.failed) == ("accuracy_drop>0.005", False)
    worse = replace(accuracy, quantized=0.85, lost=11, won=1)
    assert gates_of(CLASSES, accuracy=worse)["accuracy_drop>0.005"].failed


def test_a_gate_of_the_user_on_the_same_decisions_replaces_the_default() -> None:
    assert gates_of(replace(CLASSES, top1=0.9), "top1<0.85") == {}
    assert set(gates_of(CLASSES, "sqnr<30")) == {"top1<0.97"}
