"""The time of a kernel by a trace: times made up, so that the answer is certain."""

from __future__ import annotations

from typing import Any

import pytest

from qtool.runtime.kernels.graphs import IDLE
from qtool.runtime.kernels.traced import KernelFilter, Pace, seconds_of, time_kinds
from qtool.tables.kernels import KERNELS, Kind

WANTED = KernelFilter(("MaxPool",), Kind.INT8, 100)


def kernel(op: str, start: int, length: int, **inputs: list[int]) -> dict[str, Any]:
    types = [{name: shape} for name, shape in inputs.items()]
    arguments = {"op_name": op, "input_type_shape": types}
    return {"cat": "Node", "name": f"n_{op}_kernel_time", "ts": start, "dur": length, "args": arguments}


def run(start: int, *kernels: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"cat": "Session", "name": "model_run", "ts": start, "dur": 900, "args": {}}, *kernels]


def runs(lengths: list[int], op: str = "MaxPool", **inputs: list[int]) -> list[dict[str, Any]]:
    inputs = inputs or {"uint8": [1, 100]}
    events = []
    for number, length in enumerate(lengths):
        start = 1000 * number
        events += run(start, kernel(op, start + 1, length, **inputs), kernel(IDLE, start + 800, 2, float=[1]))
    return events


def test_neither_the_warm_up_nor_interruptions_nor_the_tracing_itself_count() -> None:
    quiet, noisy = [30, 30, 90, 700], [50, 50, 50, 50]
    timing = seconds_of(runs([800, *noisy, *quiet, *noisy, *noisy]), WANTED, [4] * 4)
    assert timing.seconds == pytest.approx((50 - 2) * 1e-6)
    assert timing.ops == ("MaxPool", IDLE)
    timing = seconds_of(runs([800, *quiet * 3, *noisy]), WANTED, [4] * 4)
    assert timing.seconds == pytest.approx((30 - 2) * 1e-6)


def test_times_are_positive() -> None:
    timing = seconds_of(runs([2] * 4), WANTED, [4])
    assert timing.seconds is not None
    assert timing.seconds > 0


@pytest.mark.parametrize(
    ("op", "inputs"),
    [("MaxPool", {"float": [1, 100]}), ("MaxPool", {"uint8": [1, 99]}), ("NhwcMaxPool", {"uint8": [1, 100]})],
    ids=["another type", "fewer elements", "another op"],
)
def test_another_kernel_is_named_and_not_timed(op: str, inputs: dict[str, list[int]]) -> None:
    timing = seconds_of(runs([50] * 4, op, **inputs), WANTED, [4])
    assert timing.seconds is None
    assert timing.ops == (op, IDLE)


def test_runs_without_the_kernel_are_not_measurements() -> None:
    events = runs([50] * 3) + run(5000, kernel(IDLE, 5001, 2, float=[1]))
    assert seconds_of(events, WANTED, [4]).seconds is None
    assert seconds_of(events, WANTED, [9]).seconds is None


def test_the_runtime_runs_the_kernels_that_are_meant() -> None:
    """All of them have it that way where the shipped table was made; here the ones that matter most."""
    for row in ("Conv/3x3", "MatMul/many", "QuantizeLinear"):
        kernel = KERNELS[row]
        timings = time_kinds(kernel, kernel.sizes[0], 1, Pace(1, 0, 1))
        assert timings.keys() == kernel.runs.keys()
        assert all(ran.seconds for ran in timings.values())
