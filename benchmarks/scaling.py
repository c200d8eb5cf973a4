"""The time of planning against the size of a model: process seconds of each stage, for generated models.

    python benchmarks/scaling.py --regions 1000,2000,4000

Each model has N regions: a chain of 1x1 convolutions, each with a Relu (`--graph chain`), the same with an
Add across every second pair (`--graph residual`), or a chain of MatMuls, each with a bias and a Relu
(`--graph matmul`), or branches of a convolution each, from one value into one Concat (`--graph hub`). Ranges,
times and errors are drawn at random, so that no inference runs: the table has the stages whose time depends
on the size of the graph only, and for each the ratio to the first size. Planning is near-linear if 4,000
regions take at most 6 times as long as 1,000. `--profile N` prints the N functions that take most of the
time, for the last size.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qtool.calibration.ranges import Range
from qtool.commands.prepare import NO_SAMPLES, prepare_model
from qtool.options import Options
from qtool.placement.build_network import RegionCosts, build_network
from qtool.placement.pareto import envelope, spread
from qtool.placement.region_reasons import region_notes, why_float
from qtool.placement.regions import find_regions
from qtool.plan.assignment import Assignment, assigned_graph
from qtool.plan.calibration_fallback import fallback_nodes
from qtool.plan.draft import draft
from qtool.plan.predict import TensorNoise, keys_of
from qtool.plan.resolve import resolve
from qtool.plan.rules import maximal
from qtool.rewrite.simulate.switched import switched
from qtool.rewrite.write import rewrite

GRAPHS = ("chain", "residual", "matmul", "hub")
POINTS = 8  # plans of `qtool tune`
_WIDTH = 4
_MATMUL_WIDTH = 64  # products with smaller weights stay in float
_SEED = 0


class Clock:
    """Process seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of a block to a stage."""
        start = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", default="1000,2000,4000", help="sizes, comma-separated")
    parser.add_argument("--graph", choices=GRAPHS, default="residual")
    parser.add_argument("--profile", type=int, default=0, metavar="N", help="functions to print")
    args = parser.parse_args()
    sizes = [int(size) for size in args.regions.split(",")]
    seconds = []
    for size in sizes:
        profile = cProfile.Profile()
        if args.profile and size == sizes[-1]:
            profile.enable()
        seconds.append(measure(model(args.graph, size)))
        profile.disable()
        if args.profile and size == sizes[-1]:
            pstats.Stats(profile).sort_stats("cumulative").print_stats(args.profile)
    print(table(args.graph, sizes, seconds))


def table(graph: str, sizes: list[int], seconds: list[dict[str, float]]) -> str:
    """Return the seconds of every stage and size, and the ratios to the first size, as Markdown."""
    lines = [
        f"| {graph} | " + " | ".join(f"{size:,} regions" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    totals = {"total": 0.0}
    for name in (*seconds[0], *totals):
        row = [sum(times.values()) if name in totals else times[name] for times in seconds]
        cells = [f"{row[0]:.2f} s", *(f"{s:.2f} s ({s / max(row[0], 1e-9):.1f}x)" for s in row[1:])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(proto: onnx.ModelProto) -> dict[str, float]:
    """Return stage -> process seconds."""
    clock = Clock()
    rng = np.random.default_rng(_SEED)
    with clock.stage("load and prepare"):
        prepared = prepare_model(proto, Options(), sets=NO_SAMPLES)
    task, view = prepared.task, prepared.view
    with clock.stage("maximal int8 set"):
        everything = maximal(task)
        assigned = assigned_graph(task, everything)
    with clock.stage("draft"):
        drafts = [draft(task, assignment) for assignment in (everything, Assignment({}))]
    observed = dict.fromkeys(v for plan in drafts for v in plan.observed)
    ranges = {v: Range(-1.0 - rng.random(), 1.0 + rng.random(), 100, 0, 0, 100) for v in observed}
    with clock.stage("resolve"):
        assert not fallback_nodes(task, drafts[0], ranges)
        int8_plan, float_plan = (resolve(plan, ranges, view) for plan in drafts)
    with clock.stage("regions and network"):
        regions = find_regions(view, assigned)
        keys = dict.fromkeys((*keys_of(int8_plan), *keys_of(float_plan)))
        noise = {key: np.array([10.0 ** rng.uniform(-7, -3)]) for key in keys}
        costs = RegionCosts(
            {r.name: (rng.uniform(2e-6, 9e-6), rng.uniform(1e-6, 6e-6)) for r in regions},
            {v: rng.uniform(1e-7, 2e-6) for v in observed},
            {v: rng.uniform(1e-7, 2e-6) for v in observed},
            TensorNoise(("y",), np.array([1.0]), noise, 1, 1),
        )
        net = build_network(view, assigned, int8_plan, float_plan, regions, costs)
    with clock.stage("envelope and spread"):
        points = spread(net, envelope(net), POINTS)
    with clock.stage("assignments and reasons"):
        assignments = []
        for point in points:
            in_float = [region for region in regions if region.name not in point.int8]
            reasons = {name: why_float(r, net, point.weight) for r in in_float for name in r.nodes}
            forms = {name: form for name, form in everything.forms.items() if name not in reasons}
            assignments.append(replace(everything, forms=forms, reasons=reasons))
    with clock.stage("plan of a point"):
        middle = resolve(draft(task, assignments[len(points) // 2]), ranges, view)
    with clock.stage("notes"):
        middle = replace(middle, regions=region_notes(net, middle, view))
        region_notes(net, int8_plan, view)
    with clock.stage("switched model"):
        switched(prepared.model, int8_plan)
    with clock.stage("written model"):
        rewrite(prepared.model, middle)
    return clock.seconds


def model(graph: str, regions: int) -> onnx.ModelProto:
    """Return a model with this many regions."""
    rng = np.random.default_rng(_SEED)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def add(op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(*shape: int) -> str:
        name = f"c{len(constants)}"
        array = rng.standard_normal(shape).astype(np.float32)
        constants.append(numpy_helper.from_array(array, name))
        return name

    def layer(value: str) -> str:
        if graph == "matmul":
            product = add("MatMul", [value, constant(_MATMUL_WIDTH, _MATMUL_WIDTH)])
            return add("Relu", [add("Add", [product, constant(_MATMUL_WIDTH)])])
        inputs = [value, constant(_WIDTH, _WIDTH, 1, 1), constant(_WIDTH)]
        return add("Relu", [add("Conv", inputs, kernel_shape=[1, 1])])

    value, made = "x", 0
    if graph == "hub":
        trunk = layer("x")
        add("Concat", [layer(trunk) for _ in range(regions - 1)], axis=1)
        made = regions
    while made < regions:
        block = value
        for _ in range(min(2 if graph == "residual" else 1, regions - made)):
            value = layer(value)
            made += 1
        if graph == "residual" and made < regions:
            value = add("Add", [value, block])
            made += 1
    nodes[-1].output[0] = "y"
    shape = ["N", _MATMUL_WIDTH] if graph == "matmul" else ["N", _WIDTH, 4, 4]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))
    opset = [helper.make_opsetid("", 21)]
    return helper.make_model(
        helper.make_graph(nodes, graph, [x], [y], constants), opset_imports=opset, ir_version=10
    )


if __name__ == "__main__":
    main()
