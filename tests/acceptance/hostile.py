"""Hostile inputs and the check of their refusal: helpers of the tests of hostile models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.program import run
from tests.graphs import model, node, weights
from tests.tiers import nightly

# The time limit of one command; each is refused within a second or two.
SECONDS = 600
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
COMMANDS = {
    "quantize": ["quantize", "m.onnx", "-o", "q.onnx", "--calib", "calib"],
    "weights": ["quantize", "m.onnx", "-o", "q.onnx", "--mode", "weight-only"],
    "compare": ["compare", "m.onnx", "m.onnx", "--data", "calib"],
    "inspect": ["inspect", "m.onnx"],
}


def net() -> onnx.ModelProto:
    return model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (1, 4)},
        {"y": (1, 300)},
        {"w": weights(4, 300)},
    )


def put(folder: Path, proto: onnx.ModelProto) -> None:
    (folder / "m.onnx").write_bytes(proto.SerializeToString())


def edited(edit: Callable[[onnx.ModelProto], object]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        proto = net()
        edit(proto)
        put(folder, proto)

    return make


def custom_op(folder: Path) -> None:
    """A model with an op of an unknown domain, which it imports."""
    proto = net()
    proto.graph.node[1].domain = "my.own"
    proto.opset_import.append(helper.make_opsetid("my.own", 1))
    put(folder, proto)


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


def beside(folder: Path, **entries: str) -> onnx.ModelProto:
    """A model whose weight lies in w.bin, with the given entries of its place."""
    proto = net()
    move_out(folder, proto.graph.initializer[0], **entries)
    return proto


def move_out(folder: Path, tensor: onnx.TensorProto, **entries: str) -> None:
    (folder / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", **entries}.items():
        tensor.external_data.add(key=key, value=value)


@dataclass(frozen=True)
class Row:
    """A hostile input.

    Args:
        make: writes m.onnx, and its other files, into a folder.
        says: a pattern that the error line has in it.
        commands: names in COMMANDS.
        codes: the exit codes that are allowed.
        seconds: the time limit.
    """

    make: Callable[[Path], object]
    says: str
    commands: tuple[str, ...] = ("quantize",)
    codes: tuple[int, ...] = (3,)
    seconds: int = 60


ALL = ("quantize", "compare", "inspect")
RUN = ("quantize",)


def content(folder: Path) -> dict[str, object]:
    """The entries of a folder with their kinds; files of up to a few MB with their bytes."""
    entries: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        info = path.lstat()
        small = path.is_file() and not path.is_symlink() and info.st_size < 1 << 24
        written = 0 if path.is_dir() else info.st_mtime_ns
        entries[str(path.relative_to(folder))] = (
            info.st_mode,
            info.st_size,
            written,
            path.read_bytes() if small else b"",
        )
    return entries


def plain(done: CompletedProcess[str]) -> str:
    """The error line, when there is one, with hints, warnings and nothing else; fit for a terminal."""
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert all(line.startswith(("error: ", "  hint: ", "warning: ")) for line in lines), done.stderr
    assert all(line.isprintable() and len(line) < 700 for line in lines), done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return errors[0]


def check_refusal(row: Row, command: str, folder: Path) -> None:
    """Run a command on a hostile input: it has to end plainly, and leave the folder and the one above as they were."""
    row.make(folder)
    before = content(folder.parent)
    limits = ("--time-limit", row.seconds, "--memory-limit", "3GB")
    done = run(*COMMANDS[command], *limits, cwd=folder, env={"TMPDIR": str(folder.parent)}, timeout=SECONDS)
    line = plain(done)
    assert done.returncode in row.codes, done.stderr
    assert re.search(row.says, line), line
    assert content(folder.parent) == before


def cases(rows: dict[str, Row]) -> pytest.MarkDecorator:
    """Parametrize a test by the row and the command: by day one command for each row, in turn."""
    pairs = [
        (name, row, command)
        for number, (name, row) in enumerate(rows.items())
        for command in (row.commands if nightly() else [row.commands[number % len(row.commands)]])
    ]
    return pytest.mark.parametrize(
        ("row", "command"), [pytest.param(row, c, id=f"{name}-{c}") for name, row, c in pairs]
    )
