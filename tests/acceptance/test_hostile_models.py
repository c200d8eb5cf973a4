"""Models that mean harm, or are harmed: the installed program refuses each plainly, and leaves all as it was.

A row is a function that makes the files, the words of the message that name the problem, and the commands.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.program import run
from tests.graphs import SAMPLE_MODELS, model, node, rng, samples, weights, write_samples

# What one command may take; each is refused within a second or two.
SECONDS = 600
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
COMMANDS = {
    "quantize": ["quantize", "{m}", "-o", "q.onnx", "--calib", "calib"],
    "weights": ["quantize", "{m}", "-o", "q.onnx", "--mode", "weight-only"],
    "compare": ["compare", "{m}", "{m}", "--data", "calib"],
    "inspect": ["inspect", "{m}"],
}


def net(**other: object) -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (1, 4)},
        {"y": (1, 300)},
        {"w": weights(4, 300)},
    )


def put(folder: Path, proto: onnx.ModelProto) -> None:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())


# What is no model file


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


def lead(field: int, data: bytes) -> bytes:
    """A protobuf field of bytes."""
    size, number = bytearray(), len(data)
    while number >= 128:
        size.append(number & 127 | 128)
        number >>= 7
    return bytes([field << 3 | 2, *size, number]) + data


def calling(*chains: list[str]) -> onnx.ModelProto:
    """A model that calls F0; function Fi calls each of chains[i] in turn."""
    proto = model([node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)})
    proto.graph.node[0].CopyFrom(node("F0", ["x"], ["y"], domain="local"))
    proto.opset_import.append(OPSETS[1])
    for number, chain in enumerate(chains):
        nodes = [
            node(
                op,
                ["a" if i == 0 else f"t{i}"],
                ["b" if i == len(chain) - 1 else f"t{i + 1}"],
                domain="local" if op.startswith("F") else "",
            )
            for i, op in enumerate(chain)
        ]
        proto.functions.append(helper.make_function("local", f"F{number}", ["a"], ["b"], nodes, OPSETS))
    return proto


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


def edited(edit: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        proto = net()
        edit(proto)
        put(folder, proto)

    return make


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
    """A few bytes that come to terabytes when they are run, or folded."""
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


# External data


def beside(folder: Path, **entries: str) -> onnx.ModelProto:
    """A model whose weight lies in w.bin; entries of its place are as told."""
    proto = net()
    move_out(folder, proto.graph.initializer[0], **entries)
    return proto


def move_out(folder: Path, tensor: onnx.TensorProto, **entries: str) -> None:
    (folder / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)


def placed(**entries: str) -> Callable[[Path], None]:
    return lambda folder: put(folder, beside(folder, **entries))


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else where w.bin should be."""

    def both(folder: Path) -> None:
        put(folder, beside(folder))
        (folder / "w.bin").rename(folder / "real.bin")
        make(folder / "w.bin")

    return both


def in_a_linked_folder(folder: Path) -> None:
    put(folder, beside(folder, location="sub/w.bin"))
    (folder / "elsewhere").mkdir()
    (folder / "w.bin").rename(folder / "elsewhere" / "w.bin")
    (folder / "sub").symlink_to("elsewhere")


def in_a_constant(folder: Path) -> None:
    tensor = numpy_helper.from_array(weights(4, 300), "w")
    move_out(folder, tensor, location="../w.bin")
    proto = net()
    del proto.graph.initializer[:]
    proto.graph.node.insert(0, node("Constant", [], ["w"], value=tensor))
    put(folder, proto)


def in_a_branch(folder: Path) -> None:
    tensor = numpy_helper.from_array(weights(1, 4), "k")
    move_out(folder, tensor, location="/etc/passwd")
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, [1, 4])
    branch = helper.make_graph([node("Add", ["x", "k"], ["o"])], "b", [], [out], [tensor])
    proto = model([node("Relu", ["x"], ["y"])], {"x": (1, 4)}, {"y": (1, 4)}, {"c": np.bool_(True)})
    proto.graph.node[0].CopyFrom(node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    put(folder, proto)


def in_a_function(folder: Path) -> None:
    tensor = numpy_helper.from_array(weights(1, 4), "k")
    move_out(folder, tensor, location="../../w.bin")
    proto = calling(["Relu", "Relu"])
    proto.functions[0].node[0].CopyFrom(node("Constant", [], ["t1"], value=tensor))
    put(folder, proto)


def sparse_data(folder: Path) -> None:
    proto = net()
    proto.graph.initializer[0].dims[:] = [1 << 20, 1 << 20]
    move_out(folder, proto.graph.initializer[0])
    with (folder / "w.bin").open("wb") as stream:
        stream.truncate(4 << 40)
    put(folder, proto)


# The table


@dataclass(frozen=True)
class Row:
    """A hostile input.

    Args:
        make: writes m.onnx, and whatever belongs to it, into a folder.
        says: a pattern that the error line has in it.
        commands: names in COMMANDS.
        codes: what the program may end with.
        seconds: of patience.
    """

    make: Callable[[Path], object]
    says: str
    commands: tuple[str, ...] = ("quantize",)
    codes: tuple[int, ...] = (3,)
    seconds: int = 60


ALL = ("quantize", "compare", "inspect")
RUN = ("quantize",)


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
    "a folder": Row(lambda f: (f / "m.onnx").mkdir(), "not a regular file", ALL),
    "a FIFO": Row(lambda f: os.mkfifo(f / "m.onnx"), "not a regular file", ALL),
    "a socket": Row(unix_socket, "not a regular file"),
    "/dev/zero": Row(lambda f: (f / "m.onnx").symlink_to("/dev/zero"), "not a regular file"),
    "/dev/stdin": Row(lambda f: (f / "m.onnx").symlink_to("/dev/stdin"), "not a regular file|is empty"),
    "a link to nowhere": Row(lambda f: (f / "m.onnx").symlink_to("nowhere"), "does not exist"),
    "a link to itself": Row(lambda f: (f / "m.onnx").symlink_to("m.onnx"), "can't be read"),
    "empty": Row(lambda f: (f / "m.onnx").touch(), "is empty"),
    "git-lfs pointer": Row(lfs, "does not parse"),
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
    "two functions of one name": Row(two_functions_of_one_name, "one name"),
    "a long name": Row(edited(lambda p: setattr(p.graph.node[0], "name", "n" * 1_000_000)), "a name of 1,000,000"),
    "many nodes": Row(lambda f: (f / "m.onnx").write_bytes(net().SerializeToString() + lead(7, lead(1, b"") * 600_000)), "more than 500,000 nodes"),
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
    "a custom op": Row(edited(lambda p: (setattr(p.graph.node[1], "domain", "my.own"), p.opset_import.append(helper.make_opsetid("my.own", 1)))), "m.onnx: onnxruntime refuses.*my.own", ("quantize", "weights", "compare")),
    "a custom op nobody imports": Row(edited(lambda p: setattr(p.graph.node[1], "domain", "my.own")), "No opset import for domain 'my.own'"),
    "types that do not fit": Row(edited(lambda p: setattr(p.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT32)), "invalid"),
    "axes out of range": Row(edited(lambda p: p.graph.node[1].CopyFrom(node("Transpose", ["h"], ["y"], perm=[0, 5]))), "invalid.*perm"),
    "groups of nothing": Row(divided_by_zero_groups, "a native library crashed|onnxruntime", RUN, (3, 6)),
    "a word that is not UTF-8": Row(edited(lambda p: p.graph.node[1].CopyFrom(node("DepthToSpace", ["h"], ["y"], blocksize=1, mode=b"\xff\xfe"))), "'mode' of DepthToSpace is not UTF-8"),
    "a bias of another length": Row(bias_of_another_length, "m.onnx.*onnxruntime refuses|onnxruntime failed", RUN, (3, 6)),
    # bombs: refused by what would have to run them; nothing of ours builds them first
    "an endless loop": Row(infinite_loop, "no end after 5 s", (*RUN, "compare"), (3, 6), seconds=5),
    "ConstantOfShape": Row(bomb(node("ConstantOfShape", ["n"], ["big"]), n=HUGE), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    "Expand": Row(bomb(node("Expand", ["one", "n"], ["big"]), n=HUGE, one=ONE), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    "Tile": Row(bomb(node("Tile", ["one", "n"], ["big"]), n=HUGE, one=ONE), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    "Range": Row(bomb(node("Range", ["a", "b", "c"], ["big"]), a=np.float32(0), b=np.float32(1e13), c=np.float32(1)), "onnxruntime|out of memory|killed", RUN, (3, 5, 6)),
    # external data
    "data above": Row(placed(location="../w.bin"), "outside the model's folder"),
    "data above, by a way round": Row(placed(location="sub/../../w.bin"), "outside the model's folder"),
    "data of the system": Row(placed(location="/etc/passwd"), "outside the model's folder", ALL),
    "data of another system": Row(placed(location="C:\\w.bin"), "outside the model's folder"),
    "data above, of another system": Row(placed(location="..\\w.bin"), "outside the model's folder"),
    "data in memory": Row(placed(location="*/_ORT_MEM_ADDR_/*", offset="140000000000000"), "outside the model's folder"),
    "data nowhere": Row(placed(location=""), "outside the model's folder"),
    "data in a constant": Row(in_a_constant, "outside the model's folder"),
    "data in a branch": Row(in_a_branch, "'k' lies outside the model's folder"),
    "data in a function": Row(in_a_function, "'k' lies outside the model's folder"),
    "data in a NUL": Row(placed(location="w.bin\0.txt"), "unreadable name"),
    "data with control characters": Row(placed(location="\x1b[2Jw.bin"), "unreadable name"),
    "data in a long name": Row(placed(location="w" * 5000), "name too long|missing"),
    "data that is missing": Row(instead(lambda p: None), "'w.bin' is missing"),
    "data that is a folder": Row(instead(Path.mkdir), "is not a regular file"),
    "data that is a FIFO": Row(instead(os.mkfifo), "is not a regular file", ALL),
    "data that is a device": Row(instead(lambda p: p.symlink_to("/dev/zero")), "symbolic link"),
    "data that is a link": Row(instead(lambda p: p.symlink_to("real.bin")), "symbolic link"),
    "data that is a hard link": Row(instead(lambda p: p.hardlink_to(p.parent / "real.bin")), "hard link", ALL),
    "data in a linked folder": Row(in_a_linked_folder, "symbolic link"),
    "data that is short": Row(instead(lambda p: p.write_bytes(b"short")), "too short"),
    "data of holes": Row(sparse_data, "holes"),
    "a negative offset": Row(placed(offset="-4"), "no number"),
    "a word for an offset": Row(placed(offset="0x10"), "no number"),
    "a huge offset": Row(placed(offset="9" * 18), "too short"),
    "a huger offset": Row(placed(offset="9" * 5000), "no number"),
    "a huge length": Row(placed(length="9" * 18), "a length of"),
    "a negative length": Row(placed(length="-4800"), "no number"),
    # what can't be kept
    "training info": Row(edited(lambda p: p.training_info.add()), "training info"),
    "sparse initializers": Row(edited(lambda p: p.graph.sparse_initializer.append(helper.make_sparse_tensor(numpy_helper.from_array(np.ones(1, np.float32), "s"), numpy_helper.from_array(np.zeros(1, np.int64), "i"), [9]))), "sparse"),
    "a map": Row(edited(lambda p: p.graph.output.append(helper.make_value_info("m", helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))))), "'m' is a map"),
}  # fmt: skip

CASES = [(name, command) for name, row in ROWS.items() for command in row.commands]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder with samples; what a model may name above it is there, and would be read."""
    folder = tmp_path / "in" / "side"
    folder.mkdir(parents=True)
    (tmp_path / "in" / "w.bin").write_bytes(weights(4, 300).tobytes())
    write_samples(folder / "calib", samples(4, x=(1, 4)))
    yield folder


def content(folder: Path) -> dict[str, object]:
    """What lies in a folder, and of what kind it is; files as large as a few MB with their bytes."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        small = path.is_file() and not path.is_symlink() and info.st_size < 1 << 24
        written = 0 if path.is_dir() else info.st_mtime_ns
        found[str(path.relative_to(folder))] = (
            info.st_mode,
            info.st_size,
            written,
            path.read_bytes() if small else b"",
        )
    return found


def plain(done: CompletedProcess[str]) -> str:
    """The error line, when there is one, with hints, warnings and nothing else; fit for a terminal."""
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert all(line.startswith(("error: ", "  hint: ", "warning: ")) for line in lines), done.stderr
    assert all(line.isprintable() and len(line) < 700 for line in lines), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return errors[0]


@pytest.mark.parametrize(("name", "command"), CASES, ids=[f"{n}-{c}" for n, c in CASES])
def test_is_refused_plainly(name: str, command: str, place: Path) -> None:
    row = ROWS[name]
    row.make(place)
    before = content(place.parent)
    limits = ("--time-limit", row.seconds, "--memory-limit", "3GB")
    words = [word.replace("{m}", "m.onnx") for word in COMMANDS[command]]
    done = run(*words, *limits, cwd=place, env={"TMPDIR": str(place.parent)}, timeout=SECONDS)
    line = plain(done)
    assert done.returncode in row.codes, done.stderr
    assert re.search(row.says, line), line
    assert content(place.parent) == before


# Hostile at first sight, and fine


def test_a_model_is_a_symbolic_link_with_its_data_where_the_link_is(place: Path) -> None:
    (place / "blobs").mkdir()
    put(place / "blobs", beside(place))
    (place / "m.onnx").symlink_to("blobs/m.onnx")
    done = run(*(w.replace("{m}", "m.onnx") for w in COMMANDS["weights"]), cwd=place)
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(str(place / "q.onnx"), full_check=True)


MENDED: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "an input without a shape": (lambda p: p.graph.input[0].type.tensor_type.ClearField("shape"), "input 'x' has no shape"),
    "an output without a shape": (lambda p: p.graph.output[0].type.tensor_type.ClearField("shape"), "output 'y' has no shape"),
    "an output without a type": (lambda p: p.graph.output[0].ClearField("type"), "output 'y' has no shape"),
    "a stale output": (lambda p: p.graph.output[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 7), "output 'y' has another shape"),
    "a stale inner shape": (lambda p: p.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [9, 9, 9])), "contradict"),
    "a size below 0": (lambda p: p.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", -1), "below 0"),
    "a missing import": (lambda p: p.graph.node[1].CopyFrom(node("Gelu", ["h"], ["y"], domain="com.microsoft")), "does not import com.microsoft"),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
@pytest.mark.parametrize("side_file", [False, True], ids=["", "external"])
def test_what_the_runtime_accepts_is_mended_and_said(name: str, side_file: bool, place: Path) -> None:
    edit, says = MENDED[name]
    proto = beside(place) if side_file else net()
    edit(proto)
    put(place, proto)
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        onnx.checker.check_model(str(place / "m.onnx"), full_check=True)
    done = run(*(w.replace("{m}", "m.onnx") for w in COMMANDS["weights"]), cwd=place)
    assert done.returncode == 0, done.stderr
    assert re.search(f"^warning: .*{says}", done.stderr, re.MULTILINE), done.stderr
    onnx.checker.check_model(str(place / "q.onnx"), full_check=True)


def test_samples_fit_an_input_without_a_shape(place: Path) -> None:
    proto = net()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    put(place, proto)
    done = run("compare", "m.onnx", "m.onnx", "--data", "calib", cwd=place)
    assert done.returncode == 0, done.stderr


def test_a_custom_op_stays_float_for_a_target_that_is_not_here(place: Path) -> None:
    ROWS["a custom op"].make(place)
    done = run(
        "quantize", "m.onnx", "-o", "q.onnx", "--mode", "weight-only", "--target", "generic", "-v", cwd=place
    )
    assert done.returncode == 0, done.stderr
    assert re.search("my.own::Relu", done.stdout)
    assert [n.domain for n in onnx.load(place / "q.onnx").graph.node if n.domain] == ["my.own"]


def test_names_reach_no_terminal_as_they_are(place: Path) -> None:
    proto = net()
    for one in proto.graph.node:
        one.name = f"{one.name}\x1b[2J\r\n[red]{'n' * 500}\u202e"
    put(place, proto)
    for command in (
        ["quantize", "m.onnx", "--dry-run", "-v", "--mode", "dynamic"],
        ["inspect", "m.onnx", "-v"],
        ["inspect", "m.onnx", "--json"],
    ):
        done = run(*command, cwd=place)
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def chain(length: int, *ops: str) -> onnx.ModelProto:
    nodes = [
        node(
            ops[i % len(ops)],
            [f"v{i}" if i else "x", *(["w"] if ops[i % len(ops)] in ("MatMul", "Add") else [])],
            [f"v{i + 1}"],
        )
        for i in range(length)
    ]
    return model(nodes, {"x": (4, 8)}, {f"v{length}": (4, 8)}, {"w": weights(8, 8)[:8]})


@pytest.mark.parametrize("mode", ["static", "dynamic", "weight-only", "fp16"])
def test_a_long_chain_takes_its_share_of_time_and_no_more(mode: str, place: Path) -> None:
    """Ten thousand nodes: one look-up that is not by a key takes minutes."""
    put(place, chain(10_000, "MatMul", "Relu", "Sigmoid"))
    words = ["quantize", "m.onnx", "--dry-run", "-q", "--mode", mode, "--target", "generic"]
    done = run(*words, cwd=place, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not SAMPLE_MODELS.exists(), reason="a checkout has them")
def test_every_way_to_cut_a_real_model_short_is_a_refusal(place: Path) -> None:
    data = (SAMPLE_MODELS / "cnn" / "model.onnx").read_bytes()
    for share in (0.01, 0.3, 0.999):
        (place / "m.onnx").write_bytes(data[: int(len(data) * share)])
        done = run("inspect", "m.onnx", cwd=place)
        assert done.returncode == 3, done.stderr
        plain(done)
