"""Hostile and damaged models: the installed program refuses each plainly, and leaves all files as they were.

A row is a function that makes the files, the words of the message that name the problem, and the commands.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.hostile import (
    ALL,
    OPSETS,
    RUN,
    Row,
    calling,
    cases,
    check_refusal,
    custom_op,
    edited,
    lead,
    net,
    put,
)
from tests.graphs import model, node, rng, samples, weights, write_samples

# Files that are no models


def lfs(folder: Path) -> None:
    (folder / "m.onnx").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 12345\n"
    )


def truncated(folder: Path) -> None:
    data = net().SerializeToString()
    (folder / "m.onnx").write_bytes(data[: len(data) // 2])


def flipped(folder: Path) -> None:
    data = bytearray(net().SerializeToString())
    data[10] ^= 0xFF
    (folder / "m.onnx").write_bytes(data)


def sparse_file(folder: Path) -> None:
    with (folder / "m.onnx").open("wb") as stream:
        stream.truncate(3 << 30)


def unix_socket(folder: Path) -> None:
    before = Path.cwd()
    os.chdir(folder)  # a path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("m.onnx")
    finally:
        os.chdir(before)


# Structure


def nested(folder: Path, depth: int = 33) -> None:
    """An If in an If, as bytes: protobuf's Python can't build what it can't read."""
    inner = helper.make_graph(
        [node("Identity", ["x"], ["y"])],
        "b",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    outer = model([node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    data = inner.SerializeToString()
    for _ in range(depth):
        # field 5 type GRAPH (20), field 6 the graph; field 1 of a graph is a node, 5 of a node an attribute
        attribute = lead(1, b"then_branch") + bytes([0xA0, 1, 5]) + lead(6, data)
        data = lead(1, lead(4, b"If") + lead(1, b"c") + lead(2, b"y") + lead(5, attribute)) + lead(2, b"g")
    (folder / "m.onnx").write_bytes(outer.SerializeToString() + lead(7, data))


def laughs(folder: Path) -> None:
    put(folder, calling(*([f"F{i + 1}"] * 10 for i in range(20)), ["Relu"]))


def costly_to_inline(folder: Path) -> None:
    put(folder, calling(*([f"F{i + 1}"] * 2 for i in range(15)), ["Relu"]))


def itself(folder: Path) -> None:
    put(folder, calling(["F1"], ["F2"], ["F0"]))


def deep_calls(folder: Path) -> None:
    put(folder, calling(*([f"F{i + 1}"] for i in range(3000)), ["Relu"]))


def two_functions_of_one_name(folder: Path) -> None:
    proto = calling(["Relu"])
    proto.functions.add().CopyFrom(proto.functions[0])
    put(folder, proto)


def deep_by_functions(folder: Path) -> None:
    """Each function holds an If that calls the next: shallow in the file, deep once inlined."""
    proto = calling(["Relu"])
    del proto.functions[:]
    for number in range(60):
        result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
        called = (
            node(f"F{number + 1}", ["a"], ["r"], domain="local")
            if number < 59
            else node("Relu", ["a"], ["r"])
        )
        branch = helper.make_graph([called], "b", [], [result])
        nodes = [
            node("Constant", [], ["c"], value=numpy_helper.from_array(np.bool_(True))),
            node("If", ["c"], ["b"], then_branch=branch, else_branch=branch),
        ]
        proto.functions.append(helper.make_function("local", f"F{number}", ["a"], ["b"], nodes, OPSETS))
    put(folder, proto)


def recursion_in_a_branch(folder: Path) -> None:
    deep_by_functions(folder)
    proto = onnx.load(folder / "m.onnx")
    for attribute in proto.functions[59].node[1].attribute:
        attribute.g.node[0].CopyFrom(node("F0", ["a"], ["r"], domain="local"))
    put(folder, proto)


def infinite_loop(folder: Path) -> None:
    body = helper.make_graph(
        [node("Identity", ["ci"], ["co"]), node("Relu", ["v"], ["vo"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("ci", TensorProto.BOOL, []), helper.make_tensor_value_info("v", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("co", TensorProto.BOOL, []), helper.make_tensor_value_info("vo", TensorProto.FLOAT, [1, 4])],
    )  # fmt: skip
    constants = {"n": np.int64(2**62), "t": np.bool_(True)}
    put(
        folder,
        model([node("Loop", ["n", "t", "x"], ["y"], body=body)], {"x": (1, 4)}, {"y": (1, 4)}, constants),
    )


def bomb(*nodes: onnx.NodeProto, **constants: object) -> Callable[[Path], None]:
    """A few bytes that grow to terabytes when they are run, or folded."""
    return lambda folder: put(
        folder,
        model(
            [*nodes, node("ReduceSum", ["big"], ["s"], keepdims=0), node("Mul", ["x", "s"], ["y"])],
            {"x": (1, 4)},
            {"y": (1, 4)},
            {k: np.asarray(v) for k, v in constants.items()},
        ),
    )


HUGE = np.array([1 << 20, 1 << 22], np.int64)
ONE = np.ones((1, 1), np.float32)


def divided_by_zero_groups(folder: Path) -> None:
    proto = model(
        [node("Conv", ["x", "w"], ["y"])],
        {"x": (1, 4, 4, 4)},
        {"y": (1, 4, 4, 4)},
        {"w": weights(4, 4, 1, 1)},
    )
    proto.graph.node[0].attribute.append(helper.make_attribute("group", 0))
    put(folder, proto)
    write_samples(folder / "calib", samples(4, x=(1, 4, 4, 4)))


def bias_of_another_length(folder: Path) -> None:
    """Folding the normalization would trip over it; shape inference does not."""
    constants = {
        "w": weights(4, 4, 1, 1),
        "b": weights(9),
        "ones": np.ones(4, np.float32),
        "zeros": np.zeros(4, np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("BatchNormalization", ["c", "ones", "zeros", "zeros", "ones"], ["y"]),
    ]
    put(folder, model(nodes, {"x": (1, 4, 4, 4)}, {"y": (1, 4, 4, 4)}, constants))
    write_samples(folder / "calib", samples(4, x=(1, 4, 4, 4)))


# The table


def tensor_edit(field: str, value: object) -> Callable[[Path], None]:
    def edit(proto: onnx.ModelProto) -> None:
        tensor = proto.graph.initializer[0]
        if field == "dims":
            tensor.dims[:] = value
        else:
            setattr(tensor, field, value)

    return edited(edit)


ROWS: dict[str, Row] = {
    # no model file
    "missing": Row(lambda f: None, "does not exist"),
    "a folder": Row(lambda f: (f / "m.onnx").mkdir(), "holds no .onnx file|not a regular file", ALL),
    "a FIFO": Row(lambda f: os.mkfifo(f / "m.onnx"), "not a regular file", ALL),
    "a socket": Row(unix_socket, "not a regular file"),
    "/dev/zero": Row(lambda f: (f / "m.onnx").symlink_to("/dev/zero"), "not a regular file"),
    "/dev/stdin": Row(lambda f: (f / "m.onnx").symlink_to("/dev/stdin"), "not a regular file|is empty"),
    "a link to nowhere": Row(lambda f: (f / "m.onnx").symlink_to("nowhere"), "does not exist"),
    "a link to itself": Row(lambda f: (f / "m.onnx").symlink_to("m.onnx"), "can't be read"),
    "empty": Row(lambda f: (f / "m.onnx").touch(), "is empty"),
    "git-lfs pointer": Row(lfs, "a git-lfs pointer"),
    "truncated": Row(truncated, "does not parse", ALL),
    "bit-flipped": Row(flipped, "does not parse|invalid"),
    "random": Row(lambda f: (f / "m.onnx").write_bytes(rng(1).bytes(5000)), "does not parse"),
    "zeros": Row(lambda f: (f / "m.onnx").write_bytes(bytes(1000)), "does not parse"),
    "text": Row(lambda f: (f / "m.onnx").write_text("hello\n"), "does not parse"),
    "3 GiB of nothing": Row(sparse_file, "more than a model can have", ALL),
    "no graph": Row(lambda f: put(f, onnx.ModelProto(ir_version=8)), "invalid"),
    # too much
    "If in If": Row(nested, "nested in each other", ALL),
    "If in If thousands deep": Row(lambda f: nested(f, 5000), "nested in each other|does not parse"),
    "billion laughs": Row(laughs, "nodes when inlined", ALL),
    "many calls": Row(costly_to_inline, "too many to inline"),
    "functions that call each other": Row(itself, "calls itself", ALL),
    "a function that calls itself in a branch": Row(recursion_in_a_branch, "calls itself"),
    "thousands of functions deep": Row(deep_calls, "call each other more than 100 deep"),
    "deep by functions": Row(deep_by_functions, "nested in each other"),
    "two functions of one name": Row(two_functions_of_one_name, "have the same name"),
    "a long name": Row(edited(lambda p: setattr(p.graph.node[0], "name", "n" * 1_000_000)), "a name of 1,000,000"),
    "many nodes": Row(lambda f: (f / "m.onnx").write_bytes(net().SerializeToString() + lead(7, lead(1, b"") * 500_001)), "more than 500,000 nodes"),
    # tensors
    "axes that overflow": Row(tensor_edit("dims", [1 << 40, 1 << 40]), "'w' has an impossible shape"),
    "axes that overflow to 0": Row(tensor_edit("dims", [1 << 32, 1 << 32]), "'w' has an impossible shape"),
    "axes of nothing that overflow": Row(tensor_edit("dims", [0, 1 << 40, 1 << 40]), "'w' has an impossible shape"),
    "a negative axis": Row(tensor_edit("dims", [-4, -300]), "'w' has an impossible shape"),
    "a thousand axes": Row(tensor_edit("dims", [1] * 1000), "'w' has 1,000 axes"),
    "more axes than data": Row(tensor_edit("dims", [4, 30_000]), "holds 4,800 bytes; its shape needs 480,000"),
    "more data than axes": Row(tensor_edit("dims", [4, 3]), "holds 4,800 bytes"),
    "an unknown type": Row(tensor_edit("data_type", 77), "unknown type"),
    "strings in raw data": Row(tensor_edit("data_type", TensorProto.STRING), "tensor 'w'"),
    # graphs
    "an op that is none": Row(edited(lambda p: setattr(p.graph.node[1], "op_type", "No\x1b[31mSuch\nOp")), "invalid.*SuchOp|invalid.*Such", ALL),
    "a cycle": Row(edited(lambda p: p.graph.node[0].input.__setitem__(0, "y")), "invalid"),
    "a name that is not UTF-8": Row(lambda f: (f / "m.onnx").write_bytes(net().SerializeToString().replace(b"Relu_y", b"\xff\xfelu_y")), "not UTF-8"),
    "no opset": Row(edited(lambda p: p.ClearField("opset_import")), "invalid"),
    "an opset from the future": Row(edited(lambda p: setattr(p.opset_import[0], "version", 9999)), "onnxruntime refuses", ("quantize", "weights")),
    "IR from the future": Row(edited(lambda p: setattr(p, "ir_version", 9999)), "ir_version"),
    "a custom op": Row(custom_op, "m.onnx: onnxruntime refuses.*my.own", ("quantize", "compare")),
    "a custom op without an import": Row(edited(lambda p: setattr(p.graph.node[1], "domain", "my.own")), "No opset import for domain 'my.own'"),
    "types that do not fit": Row(edited(lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT32)), "invalid"),
    "axes out of range": Row(edited(lambda p: p.graph.node[1].CopyFrom(node("Transpose", ["h"], ["y"], perm=[0, 5]))), "invalid.*perm"),
    "groups of nothing": Row(divided_by_zero_groups, "a native library crashed|onnxruntime", RUN, (3, 6)),
    "a word that is not UTF-8": Row(edited(lambda p: p.graph.node[1].CopyFrom(node("DepthToSpace", ["h"], ["y"], blocksize=1, mode=b"\xff\xfe"))), "'mode' of DepthToSpace is not UTF-8"),
    "a bias of another length": Row(bias_of_another_length, "m.onnx.*onnxruntime refuses|onnxruntime failed", RUN, (3, 6)),
    # bombs: refused by what would have to run them; nothing of ours builds them first
    "an endless loop": Row(infinite_loop, "no end after 3 s", (*RUN, "compare"), (3, 6), seconds=3),
    "ConstantOfShape": Row(bomb(node("ConstantOfShape", ["n"], ["big"]), n=HUGE), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    "Expand": Row(bomb(node("Expand", ["one", "n"], ["big"]), n=HUGE, one=ONE), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    "Tile": Row(bomb(node("Tile", ["one", "n"], ["big"]), n=HUGE, one=ONE), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    "Range": Row(bomb(node("Range", ["a", "b", "c"], ["big"]), a=np.float32(0), b=np.float32(1e13), c=np.float32(1)), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    # what can't be kept
    "training info": Row(edited(lambda p: p.training_info.add()), "training info"),
    "sparse initializers": Row(edited(lambda p: p.graph.sparse_initializer.append(helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [9]))), "sparse"),
    "a map": Row(edited(lambda p: p.graph.output.append(helper.make_value_info("m", helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))))), "'m' is a map"),
}  # fmt: skip


@cases(ROWS)
def test_is_refused_plainly(row: Row, command: str, model_folder: Path) -> None:
    check_refusal(row, command, model_folder)
