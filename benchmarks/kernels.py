"""Time the forms that the tables choose between, on this machine: the facts behind tables/targets.py.

    python benchmarks/kernels.py [WORD]

Each line is the speed of a form against the baseline of its group, interleaved in one process, one thread, by
the processor's time, median of rounds; above 1 is faster. `ops` is what the runtime made of the graph. With
WORD, only the groups whose name contains it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

RANDOM = np.random.default_rng(0)


@dataclass
class Form:
    """A graph under construction: x [shape] -> y."""

    shape: tuple[int, ...]
    dynamic: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def op(self, op: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def qdq(self, x: str, scale: float = 0.04, zero: int = 128) -> str:
        args = [self.constant(f"{x}_s", np.float32(scale)), self.constant(f"{x}_z", np.uint8(zero))]
        return self.op("DequantizeLinear", [self.op("QuantizeLinear", [x, *args], f"{x}_q"), *args], f"{x}_d")

    def weight(self, name: str, w: np.ndarray, axis: int) -> tuple[str, np.ndarray]:
        others = tuple(i for i in range(w.ndim) if i != axis)
        scale = (np.abs(w).max(axis=others, keepdims=True) / 127).astype(np.float32)
        args = [
            self.constant(f"{name}_q", np.round(w / scale).astype(np.int8)),
            self.constant(f"{name}_s", scale.reshape(-1)),
            self.constant(f"{name}_z", np.zeros(w.shape[axis], np.int8)),
        ]
        return self.op("DequantizeLinear", args, f"{name}_d", axis=axis), scale.reshape(-1)

    def session(self) -> tuple[ort.InferenceSession, str]:
        shape = (
            [f"d{i}" for i in range(len(self.shape) - 1)] + [self.shape[-1]] if self.dynamic else self.shape
        )
        graph = helper.make_graph(
            self.nodes,
            "form",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(v, k) for k, v in self.constants.items()],
        )
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        with tempfile.TemporaryDirectory() as folder:
            options.optimized_model_filepath = str(Path(folder) / "m.onnx")
            session = ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            ops = [n.op_type for n in onnx.load(options.optimized_model_filepath).graph.node]
        return session, " ".join(ops)


def linear(kind: str, rows: int, dynamic: bool) -> Form:
    k = n = 384
    form = Form((1, rows, k), dynamic)
    w, b = (RANDOM.standard_normal((k, n)) / 20).astype(np.float32), np.ones(n, np.float32)
    if kind == "float":
        m = form.op("MatMul", ["x", form.constant("w", w)], "m")
        form.op("Add", [m, form.constant("b", b)], "y")
        return form
    wd, scale = form.weight("w", w, 1)
    m = form.op("MatMul", [form.qdq("x"), wd], "m")
    if kind == "float bias [N]":
        bias = form.constant("b", b)
    elif kind == "float bias [1,1,N]":
        bias = form.constant("b", b[None, None])
    else:
        s = (np.float32(0.04) * scale).astype(np.float32)
        args = [form.constant("b_q", np.round(b / s).astype(np.int32)), form.constant("b_s", s)]
        bias = form.op("DequantizeLinear", args, "b_d", axis=0)
    form.op("Add", [m, bias], "y")
    return form


def blocks(kind: str, rows: int, k: int, n: int) -> Form:
    """A product on float weights, on blocks of packed ones, or on activations quantized at run time."""
    form = Form((1, rows, k), dynamic=True)
    w = (RANDOM.standard_normal((k, n)) / 20).astype(np.float32)
    if kind == "float":
        form.op("MatMul", ["x", form.constant("w", w)], "y")
    elif kind == "int8, activations at run time":
        scale = (np.abs(w).max(0) / 127).astype(np.float32)
        args = [form.constant("q", np.round(w / scale).astype(np.int8)), form.constant("s", scale)]
        form.op("DynamicQuantizeMatMul", ["x", *args], "y", domain="com.microsoft")
    else:
        bits, size = (int(word) for word in kind.split(" bits in blocks of "))
        shape = (n, k // size, size * bits // 8)
        args = [
            form.constant("q", RANDOM.integers(0, 255, shape, np.uint8)),
            form.constant("s", np.full((n, k // size), 0.01, np.float32)),
        ]
        numbers = {"K": k, "N": n, "bits": bits, "block_size": size, "accuracy_level": 4}
        form.op("MatMulNBits", ["x", *args], "y", domain="com.microsoft", **numbers)
    return form


def norm(add: str, rows: int, width: int) -> Form:
    form = Form((1, rows, width), dynamic=True)
    total = form.op(add, ["x", "x"], "a")
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    form.op("LayerNormalization", [total, form.constant("g", ones), form.constant("b", zeros)], "y", axis=-1)
    return form


def gelu(kind: str) -> Form:
    form = Form((1, 512, 512))
    if kind == "fused":
        form.op("FastGelu", ["x"], "y", domain="com.microsoft")
        return form
    c = {
        n: form.constant(n, np.float32(v))
        for n, v in (("a", 0.044715), ("b", 0.79788456), ("h", 0.5), ("i", 1))
    }
    cube = form.op("Mul", ["x", form.op("Mul", ["x", form.op("Mul", ["x", c["a"]], "1")], "2")], "3")
    t = form.op("Tanh", [form.op("Mul", [form.op("Add", ["x", cube], "4"), c["b"]], "5")], "6")
    form.op("Mul", ["x", form.op("Mul", [form.op("Add", [t, c["i"]], "7"), c["h"]], "8")], "y")
    return form


def convolution(
    kind: str, channels: int, size: int, kernel: int, stride: int, out: int, group: int = 1
) -> Form:
    form = Form((1, channels, size, size))
    w = (RANDOM.standard_normal((out, channels // group, kernel, kernel)) * 0.1).astype(np.float32)
    x, wd = "x", form.constant("w", w)
    if kind == "int8":
        form.constants.pop("w")
        wd, _ = form.weight("w", w, 0)
        x = form.qdq("x")
    pads = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2, "group": group}
    y = form.op("Relu", [form.op("Conv", [x, wd], "c", **pads)], "r")
    form.op("GlobalAveragePool", [form.qdq(y, zero=0) if kind == "int8" else y], "y")
    return form


def stored(kind: str) -> Form:
    form = Form((1, 64, 56, 56))
    w = (RANDOM.standard_normal((64, 64, 3, 3)) * 0.1).astype(np.float32)
    if kind == "float":
        name = form.constant("w", w)
    elif kind == "DequantizeLinear":
        name, _ = form.weight("w", w, 0)
    else:
        q, s = form.constant("q", np.round(w * 100).astype(np.int8)), form.constant("s", np.float32(0.01))
        name = form.op("Mul", [form.op("Cast", [q], "c", to=TensorProto.FLOAT), s], "w")
    form.op("Conv", ["x", name], "y", kernel_shape=[3, 3], pads=[1] * 4)
    return form


def between(kind: str, channels: int = 64, size: int = 28) -> Form:
    """Convolution, something written in one of two ways, convolution."""
    form = Form((1, channels, size, size))
    w = form.constant("w", (RANDOM.standard_normal((channels, channels, 3, 3)) * 0.05).astype(np.float32))
    x = form.op("Conv", ["x", w], "c", pads=[1] * 4)
    slopes = RANDOM.uniform(-0.2, 0.5, (channels, 1, 1)).astype(np.float32)

    def depthwise(data: str, scale: np.ndarray, name: str) -> str:
        weight = form.constant(f"{name}_w", scale.reshape(-1, 1, 1, 1).astype(np.float32))
        return form.op("Conv", [data, weight], name, group=channels)

    match kind:
        case "HardSwish, written out":
            three, zero, six = (form.constant(f"n{v}", np.float32(v)) for v in (3, 0, 6))
            clip = form.op("Clip", [form.op("Add", [x, three], "a"), zero, six], "l")
            y = form.op("Div", [form.op("Mul", [x, clip], "m"), six], "r")
        case "HardSwish, HardSigmoid and Mul":
            y = form.op("Mul", [x, form.op("HardSigmoid", [x], "h", alpha=1 / 6, beta=0.5)], "r")
        case "PRelu":
            y = form.op("PRelu", [x, form.constant("k", slopes)], "r")
        case "PRelu, two depthwise convolutions":
            positive = depthwise(form.op("Relu", [x], "p"), 1 - slopes, "d")
            y = form.op("Add", [positive, depthwise(x, slopes, "e")], "r")
        case "Relu, Mul, Add":
            scale, shift = form.constant("s", np.float32(1.1)), form.constant("t", np.float32(0.1))
            y = form.op("Add", [form.op("Mul", [form.op("Relu", [x], "p"), scale], "m"), shift], "r")
        case _:
            y = depthwise(form.op("Relu", [x], "p"), np.full(channels, 1.1), "d")
    form.op("Conv", [y, w], "y", pads=[1] * 4)
    return form


def gated(kind: str, channels: int, size: int) -> Form:
    """Three convolutions, each with a SiLU behind it."""
    form = Form((1, channels, size, size))
    x = "x" if kind == "float" else form.qdq("x")
    for k in range(3):
        w = (RANDOM.standard_normal((channels, channels, 3, 3)) * 0.05).astype(np.float32)
        weight = form.constant(f"w{k}", w) if kind == "float" else form.weight(f"w{k}", w, 0)[0]
        y = form.op("Conv", [x, weight], f"c{k}", pads=[1] * 4)
        match kind:
            case "float":
                x = form.op("Mul", [y, form.op("Sigmoid", [y], f"s{k}")], f"m{k}")
            case "int8, SiLU in int8":
                y = form.qdq(y)
                gate = form.qdq(form.op("Sigmoid", [y], f"s{k}"), 1 / 256, 0)
                x = form.qdq(form.op("Mul", [y, gate], f"m{k}"))
            case _:
                gelu = form.op("QuickGelu", [form.qdq(y)], f"m{k}", "com.microsoft", alpha=1.0)
                x = form.qdq(gelu)
    form.op("GlobalAveragePool", [x], "y")
    return form


GROUPS: dict[str, dict[str, Form]] = {
    **{
        f"MatMul + bias, K=N=384, M={m}, {'dynamic' if d else 'static'} shape": {
            kind: linear(kind, m, d)
            for kind in ("float", "int32 bias", "float bias [N]", "float bias [1,1,N]")
        }
        for m in (16, 128)
        for d in (False, True)
    },
    **{
        f"product of {m} rows, {k} x {n}": {
            kind: blocks(kind, m, k, n)
            for kind in (
                "float",
                "int8, activations at run time",
                *(f"{bits} bits in blocks of {size}" for bits in (8, 4) for size in (32, 64, 128)),
            )
        }
        for m, k, n in ((1, 384, 384), (1, 1536, 384), (60, 384, 384), (60, 384, 1536), (60, 1536, 384))
    },
    **{
        f"residual add + LayerNormalization, {r} x {w}": {add: norm(add, r, w) for add in ("Add", "Sum")}
        for r, w in ((62, 384), (128, 768), (512, 1024))
    },
    "tanh Gelu, 512 x 512": {"written out": gelu("written out"), "fused": gelu("fused")},
    **{
        f"Conv {k}x{k}, {c} -> {o}, {s}x{s}, stride {t}, group {g}": {
            kind: convolution(kind, c, s, k, t, o, g) for kind in ("float", "int8")
        }
        for c, s, k, t, o, g in (
            (3, 224, 3, 2, 32, 1),
            (3, 224, 7, 2, 64, 1),
            (1, 28, 5, 1, 8, 1),
            (16, 32, 3, 1, 16, 1),
            (64, 56, 3, 1, 64, 1),
            (64, 56, 1, 1, 64, 1),
            (64, 56, 3, 1, 64, 64),
            (64, 56, 3, 1, 64, 4),
        )
    },
    **{
        f"{forms[0]} between convolutions, 64 x 28 x 28": {kind: between(kind) for kind in forms}
        for forms in (
            ("HardSwish, written out", "HardSwish, HardSigmoid and Mul"),
            ("PRelu", "PRelu, two depthwise convolutions"),
            ("Relu, Mul, Add", "Relu, a depthwise convolution"),
        )
    },
    **{
        f"Conv, SiLU, three times, {c} channels of {s} x {s}": {
            kind: gated(kind, c, s) for kind in ("float", "int8, SiLU in int8", "int8, SiLU in float")
        }
        for c, s in ((32, 56), (64, 28), (128, 14))
    },
    "float Conv with its weight stored as": {
        k: stored(k) for k in ("float", "DequantizeLinear", "Cast -> Mul")
    },
}


def main() -> None:
    print(f"onnxruntime {ort.__version__}, one thread\n")
    print("| group | form | speed | ops |\n|---|---|---|---|")
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    for group, forms in GROUPS.items():
        if word not in group:
            continue
        opened = {name: form.session() for name, form in forms.items()}
        feeds = {"x": RANDOM.standard_normal(next(iter(forms.values())).shape).astype(np.float32)}
        times: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(40):
            for name, (session, _) in opened.items():
                start = time.thread_time()
                for _ in range(5):
                    session.run(None, feeds)
                times[name].append(time.thread_time() - start)
        base = times[next(iter(times))]
        for name, (_, ops) in opened.items():
            ratio = statistics.median(b / t for b, t in zip(base[5:], times[name][5:], strict=True))
            print(f"| {group} | {name} | {ratio:.2f} | {ops} |")


if __name__ == "__main__":
    main()
