"""The rendering of a bench at a terminal, and the description of every key of its JSON."""

from __future__ import annotations

import io
import json
import math
from dataclasses import fields

import pytest
from rich.console import Console

from qtool.commands.bench import FASTER, SAME, SLOWER, UNDECIDED, Bench, Benched, Judged, Latency
from qtool.evaluate.bench_models import Memory
from qtool.evaluate.latency import Ratio
from qtool.report.bench import BENCH, render_bench
from qtool.report.html.bench import to_html
from qtool.runtime.trace import NodeTime, OpTime, OpTimes
from tests.test_docs import section


def op_times(*ops: tuple[str, float]) -> OpTimes:
    total = sum(ms for _, ms in ops)
    rows = tuple(OpTime(op, 2, ms, ms / total) for op, ms in ops)
    nodes = tuple(NodeTime(f"n_{op}[red]\x1b", op, ms, ms / total) for op, ms in ops)
    return OpTimes(10, total + 0.5, 0.5, rows, nodes)


def bench(verdict: str = FASTER, ratio: Ratio | None = None, **first: object) -> Bench:
    ops = [(f"Op{i}", 1.0) for i in range(20)]
    one = {
        "path": "m/a.onnx", "bytes": 4000, "sha256": "", "latency": Latency(99, 1.234, 2.0, None), "load_ms": 12.0,
        "memory": Memory(50_000_000, 51_500_000, 53_000_000), "speedup": None, "size_ratio": 1.0, "verdict": "",
        "op_times": op_times(*ops), **first,
    }  # fmt: skip
    two = {**one, "path": "m/b.onnx", "bytes": 1000, "size_ratio": 0.25, "verdict": verdict,
           "speedup": ratio or Ratio(1.5, 1.45, 1.55), "op_times": op_times(*ops, ("Cast", 0.001))}  # fmt: skip
    models = tuple(Benched(**m) for m in (one, two))  # type: ignore[arg-type]
    return Bench("0", "samples", 8, False, 1, 12, 9.5, models)


def shown(result: Bench, verbose: bool = False) -> str:
    out = io.StringIO()
    render_bench(result, Console(file=out, width=160), verbose)
    return out.getvalue()


@pytest.mark.parametrize(
    ("verdict", "ratio", "words"),
    [
        (FASTER, Ratio(1.5, 1.45, 1.55), "1.50x  faster (1.45-1.55)"),
        (SLOWER, Ratio(0.8, 0.79, 0.81), "0.80x  slower (0.79-0.81)"),
        (SAME, Ratio(1.0, 0.98, 1.03), "no measurable difference (0.98-1.03)"),
        (UNDECIDED, Ratio(1.3, 0.0, math.inf), "can't be told: too few rounds"),
    ],
)
def test_the_verdict_depends_on_the_interval(verdict: str, ratio: Ratio, words: str) -> None:
    assert words in shown(bench(verdict, ratio))


def test_memory_is_the_increase_and_unknown_times_are_blank() -> None:
    text = shown(bench())
    (row,) = (line for line in text.splitlines() if line.startswith("m/a.onnx") and "4,000" in line)
    assert row.split() == ["m/a.onnx", "4,000", "12.0", "1.5", "3.0"]
    (row,) = (line for line in text.splitlines() if line.startswith("m/a.onnx") and "1.23" in line)
    assert row.split() == ["m/a.onnx", "1.23", "2.00", "1x"]
    assert "memory" not in shown(bench(memory=None))


def test_conversions_are_always_shown() -> None:
    text = shown(bench())
    assert "\nCast " in text
    assert "\n8 others (-v)" in text
    assert "Op19 " in shown(bench(), verbose=True)


def test_foreign_names_stay_plain() -> None:
    text = shown(bench())
    assert "n_Op0[red]?" in text
    assert "\x1b" not in text


def test_json_is_standard() -> None:
    document = json.loads(
        BENCH.to_json(bench(UNDECIDED, Ratio(1.3, 0.0, math.inf))), parse_constant=pytest.fail
    )
    assert document["schema"] == BENCH.schema
    assert document["models"][1]["speedup"]["high"] == "inf"


def test_the_page_shows_every_model_and_the_interval() -> None:
    text = to_html(bench())
    assert "m/a.onnx" in text and "Op19" in text
    assert "1.50x as fast, faster (95%: 1.45-1.55)" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    "part",
    [Bench, Benched, Latency, Memory, Ratio, OpTimes, OpTime, NodeTime, Judged],
    ids=lambda p: p.__name__,
)
def test_every_key_is_described(part: type) -> None:
    described = section("report.md", "`bench --json`")
    assert BENCH.schema in described
    plain = described.replace("[]`", "`").replace("models[].", "")
    assert [f.name for f in fields(part) if f"`{f.name}`" not in plain] == []
