"""The cost table of this machine: every kernel of tables/kernels.py, timed."""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from qtool import __version__
from qtool.data.reading import ListFields
from qtool.errors import DataError, UsageError, did_you_mean, printable
from qtool.graph.save import check_target, save_text
from qtool.options import Progress, silent
from qtool.plan.cost_table import CostTable, Machine, Timed, Untimed, to_json
from qtool.plan.work import work_of
from qtool.runtime import cpu
from qtool.runtime.kernels.dispatch import seconds_a_node
from qtool.runtime.kernels.graphs import draw
from qtool.runtime.kernels.traced import KernelRun, Pace, time_kinds
from qtool.runtime.library import RUNTIME_VERSION
from qtool.tables.kernels import EDGES, KERNELS, Kernel, Kind
from qtool.tables.sizes import Size

# What decides which kernels there are, and how fast (of x86 and ARM).
_FLAGS = re.compile(r"(avx|fma|amx|asimddp|i8mm|bf16|sve)\w*")


@dataclass(frozen=True)
class Effort:
    """The extent of a profile.

    Args:
        passes: over all kernels; the fastest counts, because a busy neighbour stays for seconds.
        pace: of each.
        sizes: of a kernel, at most.
    """

    passes: int
    pace: Pace
    sizes: int


EFFORTS = {
    "fast": Effort(2, Pace(turns=3, seconds=0.004, runs=20), sizes=3),
    "balanced": Effort(3, Pace(turns=6, seconds=0.01, runs=40), sizes=6),
}


@dataclass(frozen=True, kw_only=True)
class Profiling(ListFields):
    """The options of a profile.

    Args:
        threads: of the runtime, at least 1.
        effort: a key of EFFORTS.
        rows: of tables/kernels.py, to time those alone; conversions and changes of layout always are.
        force: replace an existing output.
    """

    threads: int = 1
    effort: str = "balanced"
    rows: Sequence[str] = ()
    force: bool = False


def profile_machine(
    output: str | Path | None = None, options: Profiling | None = None, progress: Progress = silent
) -> CostTable:
    """Time this machine's kernels in float and in every quantized form: the table behind placement.

    Args:
        output: where to write it as JSON; None: nowhere.
        how: everything else.
        progress: called with how many of how many measurements are done.

    Raises:
        QtoolError: UsageError, EnvironmentFailure, ModelError or RuntimeFailure.
    """
    options = options or Profiling()
    effort, kernels = _checked(options)
    target = None if output is None else Path(output)
    if target is not None:
        check_target(target, [], options.force)
    table = _timed(options.threads, effort, kernels, progress)
    if target is not None:
        save_text(target, to_json(table))
    return table


def _checked(options: Profiling) -> tuple[Effort, list[Kernel]]:
    """Return the kernels to time.

    Raises:
        UsageError: it can't be.
    """
    if options.threads < 1:
        raise UsageError("profile needs a number of threads", "threads=1, or as many as models will have")
    if options.effort not in EFFORTS:
        raise UsageError(f"no effort '{printable(options.effort)}'", f"one of {', '.join(EFFORTS)}")
    for row in options.rows:
        if row not in KERNELS:
            raise UsageError(f"no kernel '{printable(row)}'", did_you_mean(row, KERNELS))
    chosen = {*(options.rows or KERNELS), *EDGES}
    return EFFORTS[options.effort], [kernel for row, kernel in KERNELS.items() if row in chosen]


def _timed(threads: int, effort: Effort, kernels: Sequence[Kernel], progress: Progress) -> CostTable:
    jobs = [(kernel, size) for kernel in kernels for size in _spread(kernel.sizes, effort.sizes)]
    fastest: list[dict[Kind, KernelRun]] = [{} for _ in jobs]
    for turn in range(effort.passes):
        for index, (kernel, size) in enumerate(jobs):
            now, before = time_kinds(kernel, size, threads, effort.pace), fastest[index]
            fastest[index] = {kind: _faster(before.get(kind), ran) for kind, ran in now.items()}
            progress("profile", turn * len(jobs) + index + 1, effort.passes * len(jobs))
    rows, untimed = [], []
    for kernel in kernels:
        ours = [(size, ran) for (k, size), ran in zip(jobs, fastest, strict=True) if k is kernel]
        for kind, ops in kernel.runs.items():
            points = {_work(kernel, size): s for size, ran in ours if (s := ran[kind].seconds) is not None}
            if points:
                rounded = tuple((work, float(f"{s:.4g}")) for work, s in sorted(points.items()))
                rows.append(Timed(kernel.row, kind, " or ".join(ops), rounded))
            untimed += [
                Untimed(kernel.row, kind, _text(size), " ".join(ran[kind].ops))
                for size, ran in ours
                if ran[kind].seconds is None
            ]
    return CostTable(
        version=__version__,
        onnxruntime=RUNTIME_VERSION,
        machine=machine(),
        threads=threads,
        dispatch=float(f"{seconds_a_node(threads, effort.passes * effort.pace.turns):.4g}"),
        rows=tuple(rows),
        untimed=tuple(untimed),
    )


def _spread(sizes: Sequence[Size], most: int) -> list[Size]:
    """Return evenly spaced items, the first and the last among them."""
    if len(sizes) <= most:
        return list(sizes)
    return [sizes[round(i * (len(sizes) - 1) / (most - 1))] for i in range(most)]


def _faster(before: KernelRun | None, now: KernelRun) -> KernelRun:
    """The faster one of two measurements; none of a kernel that did not run in both."""
    if before is None or now.seconds is None:
        return now
    return now if before.seconds is not None and now.seconds < before.seconds else before


def _work(kernel: Kernel, size: Size) -> int:
    """Return the work of the kernel's node in a float model, by plan/work.py.

    Raises:
        DataError: nothing, which is a mistake in the table.
    """
    if kernel.row in EDGES:
        return math.prod(size.data[0])
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(draw(kernel, size, Kind.FLOAT))).graph
    node = next(n for n in graph if n.op_type == kernel.op and n.outputs[0].name in ("y", "y0"))
    values = (*graph.inputs, *(v for n in graph for v in n.outputs))
    shapes = {v.name or "": tuple(v.shape.numpy()) for v in values if v.shape is not None}
    work = work_of(node, shapes)
    if work is None:
        raise DataError(f"{kernel.row}: no work in {_text(size)}")
    return work


def _text(size: Size) -> str:
    return " by ".join("x".join(map(str, shape)) for shape in (*size.data, *size.weights))


def machine() -> Machine:
    """Return the processor and its instruction sets; empty where the system does not tell."""
    name = cpu.facts().get("model name") or platform.processor() or platform.machine()
    return Machine(printable(name), tuple(sorted(w for w in cpu.flags() if _FLAGS.fullmatch(w))))
