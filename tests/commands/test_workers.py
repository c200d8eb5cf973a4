"""A search divided among workers gives the same plan and file, byte for byte, as one process."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import qtool
import qtool.commands.quantize
from qtool.plan.serial import to_json
from tests.graphs import model, node, samples, weights


class Pool:
    """A pool whose workers are this process; all that travels is pickled."""

    jobs = 2
    local = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def share(self, value: Any) -> Any:
        return value

    def outcomes(
        self,
        function: Callable[..., Any],
        calls: Sequence[tuple[Any, ...]],
        progress: Callable[[int, int], None],
    ) -> Generator[tuple[int, Any], None, None]:
        for number, arguments in reversed(list(enumerate(calls))):
            self.calls.append(function.__name__)
            own = pickle.loads(pickle.dumps(arguments))
            yield number, pickle.loads(pickle.dumps(function(*own, progress=lambda *_: None)))
            progress(number, len(calls))

    def close(self) -> None:
        """Keep everything."""


def net() -> Any:
    widths = [64, 512, 512, 64]
    nodes, arrays, value = [], {}, "x"
    for i, (a, b) in enumerate(pairwise(widths)):
        arrays[f"w{i}"] = weights(a, b, seed=i)
        nodes += [node("MatMul", [value, f"w{i}"], [f"m{i}"]), node("Relu", [f"m{i}"], [f"r{i}"])]
        value = f"r{i}"
    return model(nodes, {"x": (16, 64)}, {value: (16, 64)}, arrays)


@pytest.mark.parametrize("more", [{}, {"mode": "weight-only", "bits": 4}], ids=["static", "weight-only"])
def test_a_search_among_workers_is_that_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    data = {"target": "cpu", "timing": "table", "threads": 1, "gate": "none", "recover": "none", **more}
    results = {}
    pool = Pool()
    monkeypatch.setattr(qtool.commands.quantize, "opened", lambda jobs, ray: nullcontext(pool))
    for jobs in (0, 2):
        options = qtool.Options(calib=[s["x"] for s in samples(16, x=(16, 64))], jobs=jobs, **data)
        output = tmp_path / f"{jobs}.onnx"
        result = qtool.tune(net(), output, options, points=3)
        results[jobs] = to_json(result.plan), output.read_bytes(), result.report.trials
    assert results[0] == results[2]
    assert set(pool.calls) == {"noise_of", "outputs_of"}
