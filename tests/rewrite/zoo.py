"""Tiny graphs, each with a trap or an idiom of real exporters in it: the table that rewriting is held to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from tests.graphs import rng, samples
from tests.rewrite.zoo_convolutions import (
    all_dead,
    colliding_names,
    conv_bn_relu6,
    dead_channels,
    float_between,
    mobile_block,
    odd_names,
    output_feeds_on,
    pass_through,
    pool_indices,
    residual,
    shared_weights,
    silu,
)
from tests.rewrite.zoo_products import (
    embedding,
    gemm_row_bias,
    if_weights,
    lstm,
    mlp_gemm,
    mlp_matmul,
    shared_both_ways,
    small_divisors,
    tied_embedding,
    transformer,
    two_lstms_one_weight,
)


@dataclass(frozen=True)
class Case:
    """A model and its samples.

    Args:
        floor: the least SQNR in dB against FP32; 8-bit layers have about 35 each, noise adds up.
    """

    build: Callable[[], onnx.ModelProto]
    samples: Callable[[], Sequence[dict[str, np.ndarray]]]
    floor: float = 25.0


def image(channels: int = 16, size: int = 8) -> Callable[[], Sequence[dict[str, np.ndarray]]]:
    """Six images named x."""
    return lambda: samples(6, x=(1, channels, size, size))


def vector(*shape: int) -> Callable[[], Sequence[dict[str, np.ndarray]]]:
    """Six arrays named x."""
    return lambda: samples(6, x=shape)


def _lstm_samples(directions: int = 1, state: bool = False) -> Sequence[dict[str, np.ndarray]]:
    extra = {"h0": (directions, 1, 24), "c0": (directions, 1, 24)} if state else {}
    return samples(6, x=(5, 1, 16), **extra)


def _tokens(size: int) -> Sequence[dict[str, np.ndarray]]:
    random = rng(3)
    return [{"ids": random.integers(0, size, (2, 7))} for _ in range(6)]


def _divisors() -> Sequence[dict[str, np.ndarray]]:
    norms = np.geomspace(1e-3, 1, 128, dtype=np.float32).reshape(4, 32)
    return [{**s, "n": norms} for s in samples(6, x=(4, 32))]


CASES: dict[str, Case] = {
    "conv-bn-relu6": Case(conv_bn_relu6, image(3)),
    "residual": Case(residual, image()),
    "mobile-block": Case(mobile_block, image()),
    "mlp-gemm": Case(mlp_gemm, vector(4, 32)),
    "mlp-matmul": Case(mlp_matmul, vector(4, 32)),
    "transformer": Case(transformer, vector(2, 6, 32)),
    "lstm": Case(lstm, _lstm_samples),
    "lstm-bidirectional": Case(lambda: lstm(2), lambda: _lstm_samples(2)),
    "lstm-initial-state": Case(lambda: lstm(state=True), lambda: _lstm_samples(1, True)),
    "lstm-bidirectional-state": Case(lambda: lstm(2, state=True), lambda: _lstm_samples(2, True)),
    "lstm-y-unused": Case(lambda: lstm(hidden_only=True), _lstm_samples),
    "lstm-no-bias": Case(lambda: lstm(bias=False), _lstm_samples),
    "two-lstms-one-weight": Case(two_lstms_one_weight, lambda: samples(6, x=(5, 1, 16))),
    "embedding": Case(embedding, lambda: _tokens(300)),
    "tied-embedding": Case(tied_embedding, lambda: _tokens(300)),
    "shared-weights": Case(shared_weights, image()),
    "shared-both-ways": Case(shared_both_ways, vector(4, 32)),
    "dead-channels": Case(dead_channels, image()),
    "all-dead": Case(all_dead, image()),
    "odd-names": Case(odd_names, image()),
    "colliding-names": Case(colliding_names, image()),
    "output-feeds-on": Case(output_feeds_on, image()),
    "if-weights": Case(if_weights, vector(4, 32)),
    "pass-through": Case(pass_through, image()),
    "silu": Case(silu, image()),
    "pool-indices": Case(pool_indices, image()),
    "gemm-row-bias": Case(gemm_row_bias, vector(24, 32)),
    "small-divisors": Case(small_divisors, _divisors),
    "float-between": Case(float_between, image()),
}
