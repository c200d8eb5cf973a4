"""Models whose external data lies in a forbidden place, is no regular file or has a wrong extent: refused plainly."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.acceptance.hostile import ALL, Row, beside, calling, cases, check_refusal, move_out, net, put
from tests.graphs import model, node, weights


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


ROWS: dict[str, Row] = {
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
    "a negative offset": Row(placed(offset="-4"), "not a number"),
    "a word for an offset": Row(placed(offset="0x10"), "not a number"),
    "a huge offset": Row(placed(offset="9" * 18), "too short"),
    "a huger offset": Row(placed(offset="9" * 5000), "not a number"),
    "a huge length": Row(placed(length="9" * 18), "a length of"),
    "a negative length": Row(placed(length="-4800"), "not a number"),
}  # fmt: skip


@cases(ROWS)
def test_is_refused_plainly(row: Row, command: str, model_folder: Path) -> None:
    check_refusal(row, command, model_folder)
