"""Constants that a written model holds once: of tied embeddings, and of the branches of an If."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS
from tests.exact import honest_target
from tests.graphs import model, node, rng, samples, weights
from tests.rewrite.flow import Written, ran, run, sqnr, write

ROWS, WIDTH = 512, 64
EAGER = replace(TARGETS["cpu"].forms[Form.NBITS], min_weight=0, min_vector_weight=0)
FLOORS = {"fp16": 60.0, "static": 20.0, "dynamic": 25.0, "weight-only": 20.0}
# The bytes of the table, in shares of its float bytes: its integers and the scale of each row.
SHARES = {"fp16": 0.5, "static": 0.27, "dynamic": 0.27, "weight-only": 0.27}


def tied(head: str, *, table: np.ndarray | None = None, tied_to: np.ndarray | None = None) -> onnx.ModelProto:
    """An embedding and an output projection: through a Transpose, by a Gemm, or with a table of its own."""
    table = weights(ROWS, WIDTH) if table is None else table
    width = table.shape[1]
    constants = {"E": table, "w": weights(width, width, seed=1), "flat": np.asarray([-1, width])}
    nodes = [
        node("Gather", ["E", "ids"], ["h"], name="pick"),
        node("Reshape", ["h", "flat"], ["f"]),
        node("MatMul", ["f", "w"], ["m"], name="inner"),
        node("Tanh", ["m"], ["t"]),
    ]
    if head == "transposed":
        nodes += [
            node("Transpose", ["E"], ["Et"], perm=[1, 0]),
            node("MatMul", ["t", "Et"], ["y"], name="head"),
        ]
    elif head == "gemm":
        nodes += [node("Gemm", ["t", "E"], ["y"], name="head", transB=1)]
    else:
        constants["Et"] = table.T.copy() if tied_to is None else tied_to
        nodes += [node("MatMul", ["t", "Et"], ["y"], name="head")]
    return model(nodes, {"ids": [4, 8]}, ["y"], constants, input_type=TensorProto.INT64)


def ids(count: int = 8) -> list[dict[str, np.ndarray]]:
    return [{"ids": rng(i).integers(0, ROWS, (4, 8))} for i in range(count)]


def table_bytes(done: Written, width: int = WIDTH) -> int:
    """The bytes of everything that is as long as the table."""
    held = [numpy_helper.to_array(t) for t in done.proto.graph.initializer]
    return sum(a.nbytes for a in held if (ROWS in a.shape and a.dtype.kind in "f") or a.size == ROWS * width)


@pytest.mark.parametrize("head", ["transposed", "gemm", "copied"])
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("fp16", {}),
        ("static", {}),
        ("dynamic", {}),
        ("weight-only", {}),
        ("weight-only", {"bits": 4}),
        ("weight-only", {"bits": 4, "prefer": "speed"}),
        ("weight-only", {"bits": 8, "block": 32}),
    ],
)
def test_a_table_and_the_projection_tied_to_it_are_stored_once(
    mode: str, options: dict[str, object], head: str
) -> None:
    proto, taken = tied(head), ids()
    done = write(proto, taken, honest_target(), mode=mode, **options)
    scales = 2 if options.get("block") else 1
    assert table_bytes(done) <= 4 * ROWS * WIDTH * SHARES[mode] + 4 * ROWS * (scales - 1)
    assert sqnr(run(proto, taken), run(done.data, taken)) > FLOORS[mode]
    np.testing.assert_allclose(
        run(done.data, taken[:1], optimize=False)[0]["y"], run(done.data, taken[:1])[0]["y"], atol=0.1
    )
    assert "Transpose" not in ran(done.data), "onnxruntime transposes it at load"


@pytest.mark.parametrize("head", ["transposed", "gemm"])
@pytest.mark.parametrize("width", [WIDTH, 100])
def test_the_kernel_of_blocks_reads_the_table(width: int, head: str) -> None:
    """The last block is filled, of 100 values; 4 bits are for the products that read no table."""
    target = replace(TARGETS["cpu"], forms={**TARGETS["cpu"].forms, Form.NBITS: EAGER})
    proto, taken = tied(head, table=weights(ROWS, width)), ids()
    done = write(proto, taken, target, mode="weight-only", bits=4, prefer="speed")
    assert done.plan.operators.keys() == {"inner", "head"}
    assert table_bytes(done, width) <= 4 * ROWS * width * 0.27
    assert sqnr(run(proto, taken), run(done.data, taken)) > 15
    assert ran(done.data).keys() <= {"Gather", "Cast", "Mul", "Reshape", "MatMulNBits", "Tanh"}


def test_a_scale_behind_the_projection_stays_behind_it() -> None:
    """Multiplied into the projection, it would make another table of it."""
    proto = tied("transposed")
    proto.graph.node[-1].output[0] = "z"
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(0.3, np.float32), "scale"))
    proto.graph.node.append(node("Mul", ["z", "scale"], ["y"]))
    done = write(proto, ids(), honest_target(), mode="weight-only")
    assert table_bytes(done) <= 4 * ROWS * WIDTH * SHARES["weight-only"]


def test_a_projection_that_the_user_keeps_in_float_keeps_the_table() -> None:
    """Integers of the table beside floats of its transpose would be larger than the floats alone."""
    done = write(tied("transposed"), ids(), honest_target(), mode="weight-only", exclude=["head"])
    assert table_bytes(done) == 4 * ROWS * WIDTH


def test_types_that_the_user_sets_are_those_of_the_user() -> None:
    done = write(tied("transposed"), ids(), honest_target(), mode="weight-only", sets=["head=int4"])
    assert {t.data_type for t in done.proto.graph.initializer} >= {TensorProto.INT8, TensorProto.UINT4}


def test_a_projection_of_other_values_has_its_own_table() -> None:
    other = weights(WIDTH, ROWS, seed=9)
    done = write(tied("copied", tied_to=other), ids(), honest_target(), mode="weight-only")
    assert table_bytes(done) > 2 * ROWS * WIDTH
    assert not any(n.op_type == "Transpose" for n in done.proto.graph.node)


def branches(op: str) -> onnx.ModelProto:
    """An If both of whose branches, two Scans, or a Loop and the main graph, multiply by the same weight."""
    inside = helper.make_tensor_value_info

    def body(tag: str, ends: list[onnx.NodeProto]) -> onnx.GraphProto:
        product = helper.make_node("MatMul", ["x", "w"], [f"{tag}p"], name=f"{tag}product")
        out = inside(ends[-1].output[0], TensorProto.FLOAT, [8, 512])
        return helper.make_graph([product, *ends], tag, [], [out])

    if op == "If":
        then = body("t", [helper.make_node("Relu", ["tp"], ["ty"])])
        other = body("e", [helper.make_node("Neg", ["ep"], ["ey"])])
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    elif op == "Scan":
        nodes = [helper.make_node("Unsqueeze", ["x", "zero"], ["x3"])]
        for tag in "ab":
            step = body(tag, [helper.make_node("Relu", [f"{tag}p"], [f"{tag}r"])])
            step.node[0].input[0] = f"{tag}x"
            step.input.append(inside(f"{tag}x", TensorProto.FLOAT, [8, 512]))
            nodes.append(helper.make_node("Scan", ["x3"], [f"{tag}y"], body=step, num_scan_inputs=1))
        nodes += [
            helper.make_node("Add", ["ay", "by"], ["s"]),
            helper.make_node("Where", ["c", "s", "ay"], ["y"]),
        ]
    else:
        loop = body("l", [helper.make_node("Relu", ["lp"], ["ly"])])
        loop.input.extend([inside("i", TensorProto.INT64, []), inside("k", TensorProto.BOOL, [])])
        loop.node.append(helper.make_node("Identity", ["k"], ["kept"]))
        loop.output.insert(0, inside("kept", TensorProto.BOOL, []))
        nodes = [
            helper.make_node("Loop", ["two", "c"], ["all"], body=loop),
            helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
            helper.make_node("Add", ["all", "m"], ["y"]),
        ]
    graph = helper.make_graph(
        nodes,
        "g",
        [inside("x", TensorProto.FLOAT, [8, 512]), inside("c", TensorProto.BOOL, [])],
        [inside("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(weights(512, 512), "w"),
            numpy_helper.from_array(np.asarray(2), "two"),
            numpy_helper.from_array(np.asarray([0]), "zero"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("op", ["If", "Loop", "Scan"])
@pytest.mark.parametrize("target", [honest_target(), "generic"])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_weight_of_several_graphs_is_written_once(mode: str, target: str, op: str) -> None:
    proto = branches(op)
    taken = [{**s, "c": np.asarray(i % 2 == 0)} for i, s in enumerate(samples(8, x=(8, 512)))]
    done = write(proto, taken, target, mode=mode)
    assert len(done.data) < 0.3 * 4 * 512 * 512
    assert sqnr(run(proto, taken), run(done.data, taken)) > 20
