"""A bench: as tables for a terminal, and as JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePath

from rich.console import Console
from rich.table import Table
from rich.text import Text

from qtool.commands.bench import FASTER, SAME, SLOWER, UNDECIDED, Bench, Benched
from qtool.errors import counted
from qtool.report.tables import bare_table, labelled, percent, plain
from qtool.runtime.trace import OpTime, OpTimes
from qtool.serialize.json_format import JsonFormat
from qtool.tables.runtimes import DEFAULT

_MOST_OPS = 12
_MOST_NODES = 5
# Conversions, whose cost is what one looks for, are shown however little they take.
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast")
_VERDICTS = {
    FASTER: "faster ({0})",
    SLOWER: "slower ({0})",
    SAME: "no measurable difference ({0})",
    UNDECIDED: "can't be told: too few rounds",
    "": "",
}


BENCH = JsonFormat(
    Bench,
    "qtool.bench/1",
    "bench",
    derived={
        Bench: {"failed": lambda bench: tuple(f"{g.model}: {g.result.gate.text}" for g in bench.failed)}
    },
)
to_json = BENCH.to_json


def render_bench(bench: Bench, console: Console, verbose: bool = False) -> None:
    """Print how fast the models are, what they take, and where their time goes."""
    console.print(_latency(bench), Text(), _costs(bench), Text(), sep="\n")
    op_times = [m.op_times for m in bench.models if m.op_times is not None]
    if op_times:
        console.print(_ops(bench, op_times, verbose), Text(), _nodes(bench, verbose), Text(), sep="\n")
    console.print(labelled([(label, plain(text)) for label, text in facts(bench)]))


def _latency(bench: Bench) -> Table:
    several = len(bench.models) > 1
    columns = ["model", "p50 ms", "p90 ms", "p99 ms", *(["speed"] if several else [])]
    table = bare_table(*columns)
    if several:
        table.add_column("verdict (95% interval)", overflow="fold")
    for model in bench.models:
        latency = model.latency
        cells = [_name(bench, model), *map(_ms, (latency.p50, latency.p90, latency.p99))]
        if several:
            cells += [plain(f"{model.speedup.median:.2f}x" if model.speedup else "1x"), _verdict(model)]
        table.add_row(*cells)
    return table


def _name(bench: Bench, model: Benched) -> Text:
    """The model's path, with its runtime where that is not onnxruntime for all."""
    named = any(m.runtime != DEFAULT for m in bench.models)
    return plain(f"{model.path} ({model.runtime})" if named else model.path)


def _verdict(model: Benched) -> Text:
    styles = {FASTER: "green", SLOWER: "red"}
    interval = f"{model.speedup.low:.2f}-{model.speedup.high:.2f}" if model.speedup else ""
    return plain(_VERDICTS[model.verdict].format(interval), styles.get(model.verdict, ""))


def verdict_text(model: Benched) -> str:
    """Return the speed against the first model, with its interval, in words; '' for the first."""
    if model.speedup is None:
        return ""
    low, high = model.speedup.low, model.speedup.high
    words = _VERDICTS[model.verdict].format(f"95%: {low:.2f}-{high:.2f}")
    return f"{model.speedup.median:.2f}x as fast, {words}"


def _ms(milliseconds: float | None) -> Text:
    return plain("" if milliseconds is None else f"{milliseconds:#.3g}".rstrip("."))


def _costs(bench: Bench) -> Table:
    columns = ["model", "file bytes", *(["of the first"] if len(bench.models) > 1 else []), "load ms"]
    memory = [m.memory for m in bench.models if m.memory]
    table = bare_table(*columns, *(["memory MB", "peak MB"] if memory else []))
    for model in bench.models:
        cells = [_name(bench, model), plain(f"{model.bytes:,}")]
        if len(bench.models) > 1:
            cells.append(plain(f"{model.size_ratio:.2f}" if model is not bench.models[0] else ""))
        cells.append(_ms(model.load_ms))
        if model.memory:
            held = (model.memory.loaded, model.memory.peak)
            cells += [plain(f"{max(0, n - model.memory.idle) / 1e6:.1f}") for n in held]
        table.add_row(*cells)
    return table


def _ops(bench: Bench, op_times: list[OpTimes], verbose: bool) -> Table:
    """A row an op: the milliseconds of an inference, their share, and the nodes, a model beside the other."""
    columns = (f"{name} {what}" for name in short_names(bench) for what in ("ms", "share", "nodes"))
    table = bare_table("op", *columns)
    slowest: dict[str, float] = {}
    for times in op_times:
        for op in times.ops:
            slowest[op.op] = max(slowest.get(op.op, 0.0), op.share)
    ranked = sorted(slowest, key=lambda op: -slowest[op])
    shown = ranked if verbose else [op for i, op in enumerate(ranked) if i < _MOST_OPS or op in _CONVERSIONS]
    by_op = [{op.op: op for op in times.ops} for times in op_times]
    for name in shown:
        table.add_row(plain(name), *(cell for ops in by_op for cell in _op_cells(ops.get(name))))
    if len(shown) < len(ranked):
        rest = [_rest([op for op in times.ops if op.op not in shown]) for times in op_times]
        table.add_row(
            f"{len(ranked) - len(shown)} others (-v)", *(cell for op in rest for cell in _op_cells(op))
        )
    between = (cell for times in op_times for cell in (_ms(times.between_ms), Text(), Text()))
    table.add_row("between nodes", *between)
    return table


def _op_cells(op: OpTime | None) -> tuple[Text, Text, Text]:
    if op is None or not op.nodes:
        return Text(), Text(), Text()
    return _ms(op.ms), plain(percent(op.share)), plain(f"{op.nodes:,}")


def _rest(ops: list[OpTime]) -> OpTime:
    return OpTime("", sum(op.nodes for op in ops), sum(op.ms for op in ops), sum(op.share for op in ops))


def _nodes(bench: Bench, verbose: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "slowest nodes", "op"):
        table.add_column(column, overflow="fold")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for name, model in zip(short_names(bench), bench.models, strict=True):
        nodes = model.op_times.slowest if model.op_times else ()
        for place, node in enumerate(nodes if verbose else nodes[:_MOST_NODES]):
            cells = ("" if place else name, node.name, node.op)
            table.add_row(*map(plain, cells), _ms(node.ms), plain(percent(node.share)))
    return table


def short_names(bench: Bench) -> list[str]:
    """Return names for the heads of columns: the files', with a number where they are the same."""
    names = [PurePath(model.path).name for model in bench.models]
    many = Counter(names)
    return [f"{name} #{i}" if many[name] > 1 else name for i, name in enumerate(names, start=1)]


def facts(bench: Bench) -> list[tuple[str, str]]:
    """Return how it was measured, a label and a text each."""
    samples = f"{counted(bench.samples, 'sample')} of {bench.data}"
    made_up = ", made up: it says nothing of accuracy" if bench.synthetic else ""
    threads = f"{counted(bench.threads, 'thread')}"
    inferences = max(m.latency.inferences for m in bench.models)
    several = "in turns, " if len(bench.models) > 1 else ""
    rows = [
        ("timed", f"{threads}; {samples}{made_up}"),
        (
            "timed",
            f"{several}up to {inferences:,} inferences each, in "
            f"{counted(bench.rounds, 'round')} of new processes, {bench.seconds:.1f} s",
        ),
    ]
    memory = [m.memory for m in bench.models if m.memory]
    if memory:
        idle = max(m.idle for m in memory) / 1e6
        rows.append(
            ("memory", f"beyond the {idle:.0f} MB of a process without the model: opened, and at most")
        )
    if any(m.op_times for m in bench.models):
        rows.append(
            ("ops", "by onnxruntime's profiler, as it runs them; it slows small nodes: compare the shares")
        )
    return rows
