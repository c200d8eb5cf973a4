"""Throw damaged models and samples at the program, for a while: `make fuzz`, or python -m tests.fuzz SECONDS.

Each case is a small valid model, with samples, of which something is changed: bytes of a file, or a field of
the model (a number, a name, a node) that then is still a well-formed file. The program runs on it in a
process forked from this one, which has everything imported already. It must end in time, with a documented
code other than 70, one error line where that is not 0 or 1, nothing left behind and its input unchanged.

A native library that crashes or hangs is no failure as long as the program says so and ends in 3 to 6; such
cases are counted, and kept too. Every kept case is a folder with the files, and `case.json`: command and outcome.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

import qtool.commands.verdict
import qtool.evaluate.evaluator
import qtool.graph.inspection.change
import qtool.graph.inspection.read
import qtool.report.difference
import qtool.report.inspection
import qtool.report.json
import qtool.report.terminal
from qtool.cli import guard
from qtool.cli import main as program
from qtool.evaluate import latency
from tests.graphs import SAMPLE_MODELS, node, weights, write_samples
from tests.graphs import model as made
from tests.rewrite.zoo import CASES
from tests.sweep.cases import case as suite_case
from tests.sweep.cases import names

# Where the temporary files of the program go, its bug reports too.
SCRATCH = Path(tempfile.mkdtemp(prefix="qtool-fuzz-"))
STEP_SECONDS = 15
CASE_SECONDS = 90
MEMORY = "4GB"
# What the program says when a native library did what it should not.
TOLD = {"crash": "a native library crashed", "hang": "no end after", "memory": "out of memory"}
_EDGES = (1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, (1 << 63) - 1)
NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, *_EDGES, -(1 << 31), -(1 << 63))
WORDS = (
    "",
    "x",
    "y",
    "\x1b[2J",
    "a\nb",
    "a" * 300,
    "../w",
    "\u202e",
    "[red]",
    "0",
    "ai.onnx",
    "Relu",
    "MatMul",
)
# Fields whose change the checker may not see.
NUMERIC = frozenset(
    "i ints f floats raw_data float_data int32_data int64_data dim_value dims s elem_type version op_type".split(
        " "
    )
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e38, 1e-45, float("inf"), float("-inf"), float("nan"))


@dataclass(frozen=True)
class Seed:
    """A valid model and samples for it."""

    name: str
    files: dict[str, bytes]
    samples: Sequence[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        wrong: what should not be; '' for a good end.
        told: a key of TOLD, or ''.
    """

    code: int
    seconds: float
    wrong: str
    told: str
    stderr: str


def branches() -> onnx.ModelProto:
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8])
        return helper.make_graph(
            [node("MatMul", ["x", f"w{name}"], [f"h{name}"]), node(op, [f"h{name}"], [name])],
            name,
            [],
            [out],
            [numpy_helper.from_array(weights(8, 8), f"w{name}")],
        )

    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Greater", ["s", "zero"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh")),
    ]
    return made(nodes, {"x": (2, 8)}, {"y": (2, 8)}, {"zero": np.float32(0)})


def loop() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("MatMul", ["v", "w"], ["m"]), node("Tanh", ["m"], ["vo"]), node("Identity", ["ci"], ["co"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), helper.make_tensor_value_info("ci", TensorProto.BOOL, []), helper.make_tensor_value_info("v", TensorProto.FLOAT, [2, 8])],
        [helper.make_tensor_value_info("co", TensorProto.BOOL, []), helper.make_tensor_value_info("vo", TensorProto.FLOAT, [2, 8])],
    )  # fmt: skip
    constants = {"n": np.int64(3), "t": np.bool_(True), "w": weights(8, 8)}
    return made([node("Loop", ["n", "t", "x"], ["y"], body=body)], {"x": (2, 8)}, {"y": (2, 8)}, constants)


def functions() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    inner = helper.make_function(
        "local",
        "Dense",
        ["a", "w"],
        ["b"],
        [node("MatMul", ["a", "w"], ["m"]), node("Relu", ["m"], ["b"])],
        opsets,
    )
    outer = helper.make_function(
        "local",
        "Twice",
        ["a", "w"],
        ["c"],
        [node("Dense", ["a", "w"], ["d"], domain="local"), node("Dense", ["d", "w"], ["c"], domain="local")],
        opsets,
    )
    proto = made([node("Relu", ["x"], ["y"])], {"x": (2, 8)}, {"y": (2, 8)}, {"w": weights(8, 8)})
    proto.graph.node[0].CopyFrom(node("Twice", ["x", "w"], ["y"], domain="local"))
    proto.opset_import.append(opsets[1])
    proto.functions.extend([inner, outer])
    return proto


def old() -> onnx.ModelProto:
    """Opset 9, initializers among the inputs, a Constant node, an opset that has to be raised."""
    value = numpy_helper.from_array(weights(8), "k")
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Constant", [], ["k"], value=value),
        node("Add", ["h", "k"], ["s"]),
        node("Squeeze", ["s3"], ["y"], axes=[0]),
    ]
    nodes.insert(3, node("Unsqueeze", ["s"], ["s3"], axes=[0]))
    return made(nodes, {"x": (2, 8), "w": (8, 8)}, {"y": (2, 8)}, {"w": weights(8, 8)}, opset=9, ir_version=3)


def quantized() -> onnx.ModelProto:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], axis=1), node("MatMul", ["d", "w"], ["y"]),
    ]  # fmt: skip
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "wq": np.arange(64, dtype=np.int8).reshape(8, 8),
        "ws": np.full(8, 0.1, np.float32),
        "wz": np.zeros(8, np.int8),
    }
    return made(nodes, {"x": (2, 8)}, {"y": (2, 8)}, constants)


def external() -> dict[str, bytes]:
    """A model with a file beside it."""
    proto = made(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": (2, 8)},
        {"y": (2, 300)},
        {"w": weights(8, 300)},
    )
    data = proto.graph.initializer[0].raw_data
    external_data_helper.set_external_data(proto.graph.initializer[0], "w.bin", 0, len(data))
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer[0].data_location = TensorProto.EXTERNAL
    return {"m.onnx": proto.SerializeToString(), "w.bin": data}


def seeds() -> list[Seed]:
    random_x = [{"x": np.random.default_rng(i).standard_normal((2, 8)).astype(np.float32)} for i in range(4)]
    found = [
        Seed(build.__name__, {"m.onnx": build().SerializeToString()}, random_x)
        for build in (branches, loop, functions, old, quantized)
    ]
    found.append(Seed("external", external(), random_x))
    for name, case in CASES.items():
        found.append(Seed(name, {"m.onnx": case.build().SerializeToString()}, list(case.samples())[:4]))
    for folder in sorted(SAMPLE_MODELS.glob("*/")):
        if (folder / "model.onnx").exists():
            files = sorted((folder / "calib").glob("*.npz"))[:4]
            samples = [dict(np.load(f)) for f in files]
            found.append(Seed(folder.name, {"m.onnx": (folder / "model.onnx").read_bytes()}, samples))
    for name in names(every=20):  # of onnx's own suite: ops of all kinds
        case = suite_case(name)
        samples = [] if case.sample is None else [dict(case.sample)] * 2
        found.append(Seed(name, {"m.onnx": case.model.SerializeToString()}, samples))
    return found


# Damage


def damage(data: bytes, chance: random.Random) -> bytes:
    """Change bytes: some flipped, cut out, doubled, or set to what parsers trip over."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(changed) + 1)
        size = chance.choice((1, 1, 4, 30))
        match chance.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                del changed[at : at + size]
            case 2:
                changed[at:at] = chance.randbytes(size)
            case 3:
                changed[at : at + size] = bytes([chance.choice((0, 0x7F, 0x80, 0xFF))]) * size
            case 4:
                changed[at:at] = changed[at : at + size * 4]
            case 5 if chance.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def fields(message: object, depth: int = 0) -> Iterator[tuple[object, object]]:
    """All fields that are set, of a message and of those in it."""
    for descriptor, value in message.ListFields():
        yield message, descriptor
        if descriptor.message_type is not None and depth < 40:
            for inner in value if isinstance(value, Sequence) or hasattr(value, "add") else (value,):
                yield from fields(inner, depth + 1)


def change(proto: onnx.ModelProto, chance: random.Random) -> None:
    """Change one field of a model to something that is well-formed, and seldom sensible."""
    found = list(fields(proto))
    if not found:
        return
    numbers = [(m, f) for m, f in found if f.name in NUMERIC]
    message, field = chance.choice(numbers if numbers and chance.random() < 0.7 else found)
    value = getattr(message, field.name)
    many = hasattr(value, "extend")
    if chance.random() < 0.15:
        message.ClearField(field.name)
    elif many and (field.message_type is not None or chance.random() < 0.5):
        at = chance.randrange(len(value))
        match chance.randrange(3):
            case 0:
                del value[at]
            case 1 if field.message_type is not None:
                value.add().CopyFrom(value[at])
            case 1:
                value.append(value[at])
            case _:
                kept = [type(v).FromString(v.SerializeToString()) if field.message_type else v for v in value]
                chance.shuffle(kept)
                del value[:]
                value.extend(kept)
    elif field.message_type is not None:
        pass  # its own fields come up by themselves
    elif many:
        at = chance.randrange(len(value))
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            value[at] = other(value[at], chance, proto)
    else:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            setattr(message, field.name, other(value, chance, proto))


def other(value: object, chance: random.Random, proto: onnx.ModelProto) -> object:
    """Another value of the same type."""
    match value:
        case bool():
            return not value
        case int():
            return chance.choice((*NUMBERS, value + 1, value - 1, value * 2, chance.randrange(30)))
        case float():
            return chance.choice((*FLOATS, value * 2, -value))
        case str():
            names = [n for one in proto.graph.node for n in (*one.input, *one.output, one.op_type)]
            return chance.choice((chance.choice(WORDS), chance.choice(names or [""])))
        case bytes():
            return other_data(value, chance)
    return value


def other_data(data: bytes, chance: random.Random) -> bytes:
    """Other numbers in a tensor's data; seldom more or fewer."""
    if not data or chance.random() < 0.1:
        return damage(data, chance)
    width = chance.choice((1, 4, 8))
    at = chance.randrange(max(1, len(data) // width)) * width
    number = struct.pack("<f", chance.choice(FLOATS)) * 2
    if chance.random() < 0.5:
        number = (chance.choice(NUMBERS) % (1 << 64)).to_bytes(8, "little")
    changed = data[:at] + number[:width] + data[at + width :]
    return changed[: len(data)] if chance.random() < 0.8 else (number * len(data))[: len(data)]


def rearranged(model: bytes, chance: random.Random) -> bytes:
    """A model with some of its fields changed."""
    proto = onnx.load_model_from_string(model)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        change(proto, chance)
    try:
        return proto.SerializeToString()
    except Exception:  # a string that can't be encoded
        return model


def strange(sample: dict[str, np.ndarray], chance: random.Random) -> dict[str, np.ndarray]:
    """A sample of which an array has another shape, type, name or strange values."""
    changed = dict(sample)
    name = chance.choice(list(changed))
    array = changed[name]
    with np.errstate(all="ignore"):
        match chance.randrange(7):
            case 0:
                changed[name] = array.astype(
                    chance.choice(("float64", "float16", "int8", "bool", "complex64", "U3", "uint64", ">f4"))
                )
            case 1:
                changed[name] = array[None] if chance.random() < 0.5 else array.reshape(-1)
            case 2:
                changed[name] = array.reshape(-1)[:0]
            case 3:
                changed[name] = (
                    np.full_like(array, chance.choice((0, 1)))
                    if array.dtype.kind != "f"
                    else np.full_like(array, chance.choice(FLOATS))
                )
            case 4:
                changed[chance.choice(WORDS) or "other"] = changed.pop(name)
            case 5:
                changed[name] = np.asfortranarray(
                    np.resize(array, [chance.randrange(5) for _ in array.shape])
                )
            case _:
                changed[name] = np.array([{}], dtype=object)
    return changed


# A case


def lay_out(seed: Seed, folder: Path, chance: random.Random) -> None:
    """Write the files of a case: one of them damaged, or the model changed, or a sample."""
    files = dict(seed.files)
    samples = [dict(s) for s in seed.samples]
    kind = chance.random()
    if kind < 0.55:
        files["m.onnx"] = rearranged(files["m.onnx"], chance)
    elif kind < 0.8:
        name = chance.choice(list(files))
        files[name] = damage(files[name], chance)
    elif samples and kind < 0.9:
        at = chance.randrange(len(samples))
        with contextlib.suppress(ValueError, TypeError):  # strings are no numbers
            samples[at] = strange(samples[at], chance)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    calib = write_samples(folder / "calib", samples)
    if kind >= 0.9 and samples:
        file = chance.choice(sorted(calib.iterdir()))
        file.write_bytes(damage(file.read_bytes(), chance))
    for name, data in seed.files.items():
        (folder / f"good-{name}").write_bytes(data)


def command(chance: random.Random) -> list[str]:
    """What to run: mostly quantize, in all modes."""
    kind = chance.random()
    if kind < 0.1:
        return ["inspect", "m.onnx", *chance.choice((["--json"], ["-v"], ["good-m.onnx"]))]
    if kind < 0.2:
        return ["compare", "good-m.onnx", "m.onnx", "--data", "calib"]
    words = ["quantize", "m.onnx", "-o", "q.onnx", "--target", chance.choice(("cpu", "generic"))]
    mode = chance.choice(("static", "static", "dynamic", "weight-only", "fp16"))
    words += ["--mode", mode]
    if mode == "static":
        words += ["--calib", chance.choice(("calib", "calib", "none"))]
    elif chance.random() < 0.3:
        words += ["--data", "calib"]
    return words + chance.choice(
        (
            [],
            ["--include", "*"],
            ["-v"],
            ["--json"],
            ["--dry-run"],
            ["--io", "uint8"] if mode == "static" else [],
        )
    )


def run(words: list[str], folder: Path) -> Outcome:
    """Run the program in a fork, and look at what is left."""
    before = content(folder)
    start = time.monotonic()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        work(words, folder)
    code = wait(pid, start)
    seconds = time.monotonic() - start
    stderr = (SCRATCH / "stderr").read_text(encoding="utf-8", errors="replace")
    wrong = "" if code is not None else f"a hang of {CASE_SECONDS} s"
    return Outcome(
        -1 if code is None else code,
        seconds,
        wrong or judged(code or 0, stderr, before, folder),
        next((kind for kind, said in TOLD.items() if said in stderr), ""),
        stderr,
    )


def work(words: list[str], folder: Path) -> None:
    """The child: be the program."""
    os.setsid()
    for name, number in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(SCRATCH / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(folder)
    tempfile.tempdir = program.OUTSIDE = guard.OUTSIDE = str(SCRATCH)
    threads = [] if words[0] == "inspect" else ["--threads", "1"]
    sys.argv = ["qtool", *words, *threads, "--time-limit", str(STEP_SECONDS), "--memory-limit", MEMORY]
    code = 99
    try:
        program.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def wait(pid: int, start: float) -> int | None:
    """The child's exit code, negative for a signal; None for a hang, which is ended."""
    while time.monotonic() - start < CASE_SECONDS:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def judged(code: int, stderr: str, before: dict[str, bytes], folder: Path) -> str:
    """What is wrong with an end; '' when nothing is."""
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    if code not in (0, 1, 2, 3, 4, 5, 6):
        return f"exit code {code}"
    after = content(folder)
    if {k: v for k, v in after.items() if k != "q.onnx"} != before:
        return f"left or changed files: {sorted(after.items() ^ before.items())[:3]}"[:300]
    if code > 1 and "q.onnx" in after:
        return "an output in spite of an error"
    lines = stderr.splitlines()
    if code > 1 and sum(line.startswith("error: ") for line in lines) != 1:
        return "not one error line"
    if odd := [
        line for line in lines if not line.startswith(("error: ", "  hint: ", "warning: ", "gate failed: "))
    ]:
        return f"a line that is none of ours: {odd[0][:200]!r}"
    if not all(line.isprintable() for line in lines):
        return "control characters on stderr"
    out = (SCRATCH / "stdout").read_text(encoding="utf-8", errors="replace")
    return "" if out.replace("\n", "").isprintable() else "control characters on stdout"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def keep(folder: Path, where: Path, words: list[str], seed: Seed, outcome: Outcome) -> None:
    shutil.copytree(folder, where)
    notes = {"command": words, "seed": seed.name, **vars(outcome)}
    (where / "case.json").write_text(json.dumps(notes, indent=1))
    for report in SCRATCH.glob("qtool-bug-*"):
        shutil.move(report, where / "trace.txt")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600)
    parser.add_argument(
        "--seed", type=int, default=None, help="of the first case; each has its own, which is printed"
    )
    parser.add_argument("--out", type=Path, default=Path("fuzz-found"), help="where reproducers go")
    parser.add_argument(
        "--known", action="store_true", help="keep crashes and hangs that the program told of, too"
    )
    given = parser.parse_args()
    qtool.commands.verdict.race_models = qtool.evaluate.evaluator.race_models = partial(
        latency.race_models, limits=latency.Limits(1, 1)
    )
    planted, first = seeds(), random.SystemRandom().randrange(1 << 31) if given.seed is None else given.seed
    ends: Counter[str] = Counter()
    bad, number, end = 0, 0, time.monotonic() + given.seconds
    try:
        while time.monotonic() < end:
            bad += one(first + number, planted, given, ends)
            number += 1
    except KeyboardInterrupt:
        pass
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    print(
        f"{number} cases from --seed {first}: " + ", ".join(f"{n} {what}" for what, n in sorted(ends.items()))
    )
    print(f"{bad} ended badly" + (f": see {given.out}/" if bad else ""))
    return 1 if bad else 0


def one(number: int, planted: list[Seed], given: argparse.Namespace, ends: Counter[str]) -> bool:
    """Run one case; whether it ended badly."""
    chance = random.Random(number)
    seed, words = chance.choice(planted), command(chance)
    folder = SCRATCH / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lay_out(seed, folder, chance)
    outcome = run(words, folder)
    ends[f"exit {outcome.code}"] += 1
    if outcome.told:
        ends[f"told: {outcome.told}"] += 1
    where = given.out / f"{number}"
    if (outcome.wrong or (given.known and outcome.told)) and not where.exists():
        keep(folder, where, words, seed, outcome)
    if outcome.wrong:
        print(
            f"{number} {seed.name}: {outcome.wrong}: qtool {' '.join(words)}: {outcome.stderr.strip()[:200]}",
            flush=True,
        )
    return bool(outcome.wrong)


if __name__ == "__main__":
    sys.exit(main())
