"""A tiny decoder as onnxruntime-genai's builder exports one: GroupQueryAttention with rotary positions and a cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.graphs import node, rng


@dataclass(frozen=True)
class Size:
    """The size of a decoder; heads share keys and values in pairs."""

    layers: int = 2
    vocabulary: int = 128
    width: int = 64
    inner: int = 96
    heads: int = 4
    longest: int = 64


def tiny_llm(size: Size = Size(), *, tied: bool = False, opset: int = 17, seed: int = 0) -> onnx.ModelProto:
    """Inputs input_ids, attention_mask, past_key_values.N.key/value; outputs logits, present.N.key/value."""
    random, constants, nodes = rng(seed), dict[str, np.ndarray](), list[onnx.NodeProto]()
    head = size.width // size.heads
    shared = size.heads // 2

    def weight(name: str, *shape: int) -> str:
        scale = 1.5 / np.sqrt(shape[0]) if len(shape) > 1 else 0.1
        constants[name] = (random.standard_normal(shape) * scale).astype(np.float32)
        return name

    def add(op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(node(op, inputs, [output], **attributes))
        return output

    def norm(x: str, name: str) -> str:
        constants[f"{name}.weight"] = np.ones(size.width, np.float32)
        return add("LayerNormalization", [x, f"{name}.weight"], f"{name}.out", axis=-1)

    angles = np.arange(size.longest)[:, None] / 100.0 ** (np.arange(head // 2) * 2 / head)
    constants["cos"], constants["sin"] = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    constants |= {"one": np.array([1]), "minus": np.array(1, np.int32)}
    add("ReduceSum", ["attention_mask", "one"], "used", keepdims=0)
    add("Cast", ["used"], "used32", to=TensorProto.INT32)
    add("Sub", ["used32", "minus"], "seqlens_k")
    add("Shape", ["attention_mask"], "mask_shape")
    constants["index"] = np.array(1)
    add("Gather", ["mask_shape", "index"], "total64")
    add("Cast", ["total64"], "total", to=TensorProto.INT32)
    x = add("Gather", [weight("embed.weight", size.vocabulary, size.width), "input_ids"], "embedded")
    caches = {}
    for i in range(size.layers):
        h = norm(x, f"layers.{i}.norm")
        q, k, v = (
            add("MatMul", [h, weight(f"layers.{i}.{n}.weight", size.width, wide)], f"layers.{i}.{n}")
            for n, wide in (("q", size.width), ("k", shared * head), ("v", shared * head))
        )
        past = [f"past_key_values.{i}.{n}" for n in ("key", "value")]
        present = [f"present.{i}.{n}" for n in ("key", "value")]
        caches |= dict(zip(past, present, strict=True))
        nodes.append(
            node(
                "GroupQueryAttention",
                [q, k, v, *past, "seqlens_k", "total", "cos", "sin"],
                [f"layers.{i}.attention", *present],
                domain="com.microsoft",
                num_heads=size.heads,
                kv_num_heads=shared,
                do_rotary=1,
            )
        )
        o = add(
            "MatMul",
            [f"layers.{i}.attention", weight(f"layers.{i}.o.weight", size.width, size.width)],
            f"layers.{i}.o",
        )
        x = add("Add", [x, o], f"layers.{i}.middle")
        h = norm(x, f"layers.{i}.norm2")
        gate = add(
            "MatMul", [h, weight(f"layers.{i}.gate.weight", size.width, size.inner)], f"layers.{i}.gate"
        )
        up = add("MatMul", [h, weight(f"layers.{i}.up.weight", size.width, size.inner)], f"layers.{i}.up")
        act = add("Mul", [gate, add("Sigmoid", [gate], f"layers.{i}.sigmoid")], f"layers.{i}.silu")
        act = add("Mul", [act, up], f"layers.{i}.act")
        down = add(
            "MatMul", [act, weight(f"layers.{i}.down.weight", size.inner, size.width)], f"layers.{i}.down"
        )
        x = add("Add", [x, down], f"layers.{i}.out")
    if tied:
        table = add("Transpose", ["embed.weight"], "lm_head.weight", perm=[1, 0])
    else:
        table = weight("lm_head.weight", size.width, size.vocabulary)
    add("MatMul", [norm(x, "norm"), table], "logits")
    cache = ["batch", shared, "past", head]

    def info(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    graph = helper.make_graph(
        nodes,
        "llm",
        [
            info("input_ids", ["batch", "new"], TensorProto.INT64),
            info("attention_mask", ["batch", "total"], TensorProto.INT64),
            *(info(name, cache) for name in caches),
        ],
        [
            info("logits", ["batch", "new", size.vocabulary]),
            *(info(name, ["batch", shared, "total", head]) for name in caches.values()),
        ],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def texts(count: int, length: int, size: Size = Size(), seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Samples of token ids alone."""
    random = rng(seed)
    return [{"input_ids": random.integers(0, size.vocabulary, (1, length))} for _ in range(count)]
