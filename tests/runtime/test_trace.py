"""Kernel times of a trace: made-up events with known sums, and a real trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qtool.errors import RuntimeFailure
from qtool.runtime.session import Session
from qtool.runtime.trace import kernel_times, read_trace
from tests.rewrite.zoo import CASES


def run(start: int, length: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "ts": start, "dur": length, "args": {}}


def kernel(name: str, op: str, start: int, length: int, index: int = 0) -> dict[str, Any]:
    arguments = {"op_name": op, "node_index": str(index)}
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": start, "dur": length, "args": arguments}


def test_times_are_of_one_inference_and_the_first_ones_do_not_count() -> None:
    events = []
    for start, slow in ((0, 900), (2000, 0), (4000, 0), (6000, 500)):
        events += [
            kernel("a", "Conv", start + 10, 60 + slow),
            kernel("b", "Conv", start + 100 + slow, 20),
            kernel("q", "QuantizeLinear", start + 130 + slow, 20),
            run(start, 200 + slow),
        ]
    times = kernel_times(events, 1).op_times()
    assert times.inferences == 2  # of three, the one that was interrupted is left out
    assert times.ms == pytest.approx(0.2)
    assert times.between_ms == pytest.approx(0.1)
    assert [(o.op, o.nodes, o.ms, o.share) for o in times.ops] == [
        ("Conv", 2, pytest.approx(0.08), pytest.approx(0.8)),
        ("QuantizeLinear", 1, pytest.approx(0.02), pytest.approx(0.2)),
    ]
    assert next((n.name, n.op, n.ms) for n in times.slowest) == ("a", "Conv", pytest.approx(0.06))


def test_the_time_of_a_loop_excludes_its_body() -> None:
    events = [run(0, 10), run(100, 200)]
    events += [kernel("loop", "Loop", 110, 100), kernel("if", "If", 115, 50), kernel("m", "MatMul", 120, 30)]
    events += [kernel("m", "MatMul", 170, 30), kernel("after", "Relu", 210, 10)]
    times = {o.op: o for o in kernel_times(events, 1).op_times().ops}
    assert {op: round(o.ms * 1e3) for op, o in times.items()} == {
        "Loop": 20,
        "If": 20,
        "MatMul": 60,
        "Relu": 10,
    }
    assert times["MatMul"].nodes == 1
    assert sum(o.share for o in times.values()) == pytest.approx(1)


def test_unnamed_nodes_are_distinguished() -> None:
    events = [
        run(0, 10),
        run(100, 50),
        kernel("", "Add", 101, 5, index=3),
        kernel("", "Add", 110, 7, index=4),
    ]
    times = kernel_times(events, 1).op_times()
    assert [n.name for n in times.slowest] == ["Add (node 4)", "Add (node 3)"]
    assert times.ops[0].nodes == 2


@pytest.mark.parametrize("text", ["", "[", "[{}]", "[]", "{}", '[{"cat": "Session", "name": "model_run"}]'])
def test_a_file_that_is_not_a_trace_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(RuntimeFailure, match="profile can't be read"):
        read_trace(path, 1)


def test_a_real_trace_has_every_node(tmp_path: Path) -> None:
    case = CASES["residual"]
    session = Session(case.build().SerializeToString(), threads=1, optimize=False, trace=tmp_path / "trace")
    for _ in range(4):
        session.run(case.samples()[0])
    times = read_trace(session.end_trace(), 1).op_times()
    assert {o.op: o.nodes for o in times.ops}["Conv"] == sum(
        n.op_type == "Conv" for n in case.build().graph.node
    )
    assert 0 < sum(o.ms for o in times.ops) <= times.ms
