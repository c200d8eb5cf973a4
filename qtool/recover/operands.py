"""What a weighted node multiplies its weight with: of which value, and in which arrangement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import attribute_int, constant, float_constant, is_op
from qtool.numerics.patches import (
    Convolution,
    conv_weight_of,
    conv_weight_rows,
    patches,
    position_count,
    spread_out,
)
from qtool.numerics.qparams import F32, QParams
from qtool.numerics.quantize import dequantize, quantize
from qtool.plan.eligible import summed_axis
from qtool.plan.model import Kind, Plan, Use
from qtool.plan.weights import largest_divisor
from qtool.tables.qtypes import QType

# Columns that one matrix of their products is kept of: 32 MiB in float64, and its factors as much each.
# Wider weights are taken in parts, as if what the parts are fed had nothing to do with each other.
LARGEST = 2048


Seen = tuple[QParams, QType]
"""The scale and the type that a value is rounded to before a node gets it."""


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm.

    Args:
        axis: of the activation, from the end, that is summed over.
        upright: its weight is [K, N], not [N, K].
    """

    axis: int
    upright: bool


@dataclass(frozen=True)
class Operand:
    """What a weight is multiplied with. Nodes that read the same value alike have the same operand.

    Args:
        value: its name.
        form: how it is arranged.
        parts: into how many its columns are cut.
        seen: how the node gets it; None: as it is.
    """

    value: str
    form: Convolution | Product
    parts: int
    seen: Seen | None = None

    def weight_rows(self, w: NDArray[Any]) -> NDArray[Any]:
        """A weight, or anything of its shape, as [G, O, K]: O sums over K columns in each of G groups."""
        if isinstance(self.form, Convolution):
            rows: NDArray[Any] = conv_weight_rows(w, self.form)
        else:
            rows = (w.reshape(len(w), -1).T if self.form.upright else w)[None]
        groups, count, columns = rows.shape
        cut = rows.reshape(groups, count, self.parts, columns // self.parts).swapaxes(1, 2)
        return cut.reshape(groups * self.parts, count, -1)

    def weight_of(self, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The inverse of `weight_rows`."""
        cut = rows.reshape(-1, self.parts, *rows.shape[1:]).swapaxes(1, 2)
        whole = cut.reshape(len(cut), rows.shape[1], -1)
        if isinstance(self.form, Convolution):
            return conv_weight_of(whole, shape, self.form)
        matrix: NDArray[Any] = whole[0].T if self.form.upright else whole[0]
        return matrix.reshape(shape)

    def count(self, x: F32) -> int:
        """How many rows x has to show: results of a channel of a convolution, rows of a matrix."""
        if isinstance(self.form, Convolution):
            return position_count(x.shape, self.form)
        return x.size // x.shape[self.form.axis] if x.size else 0

    def rows(self, x: F32, positions: NDArray[np.int64]) -> F32:
        """Some of what the weight is multiplied with. x: the whole value -> [G, P, K] float32."""
        if isinstance(self.form, Convolution):
            found = patches(x, self.form, positions)
        else:
            last = x if self.form.axis == -1 or x.ndim < 2 else x.swapaxes(-1, -2)
            found = last.reshape(-1, last.shape[-1])[positions][None]
        groups, count, columns = found.shape
        cut = found.reshape(groups, count, self.parts, columns // self.parts).swapaxes(1, 2)
        return cut.reshape(groups * self.parts, count, -1)

    def positions(self, x: F32, most: int) -> NDArray[np.int64]:
        return spread_out(self.count(x), most)

    def as_seen(self, x: F32) -> F32:
        """A value as the node gets it: after what its quantization does to it."""
        if self.seen is None:
            return x
        params, qtype = self.seen
        return dequantize(quantize(x, params, qtype), params)


def seen_by(plan: Plan) -> dict[Use, Seen]:
    """How int8 nodes get what the plan quantizes: under (node, input), or (value, -1) for all its readers."""
    found: dict[Use, Seen] = {}
    for site in plan.sites:
        if site.kind is Kind.ACTIVATION and site.qparams is not None:
            for use in site.uses if site.uses is not None else ((site.value, -1),):
                found[use] = site.qparams, site.spec.qtype
    return found


def operand_of(node: ir.Node, seen: dict[Use, Seen]) -> Operand | None:
    """What a node multiplies its weight, its second input, with; None where that has no form here.

    Args:
        node: a Conv, ConvTranspose, MatMul or Gemm with a constant weight.
        seen: of its plan, from `seen_by`.
    """
    x, w = node.inputs[0], float_constant(node.inputs[1])
    if x is None or w is None or w.size == 0 or constant(x) is not None:
        return None
    if is_op(node, "Conv", "ConvTranspose"):
        conv = _convolution(node, w.shape)
        form: Convolution | Product = conv
        columns = conv_weight_rows(w, conv).shape[2]
    elif is_op(node, "MatMul", "Gemm") and w.ndim <= 2:
        upright = not attribute_int(node, "transB", 0)
        form = Product(summed_axis(node), upright)
        columns = len(w) if upright else w.shape[1]
    else:
        return None
    got = seen.get((node.name or "", 0), seen.get((x.name or "", -1)))
    return Operand(x.name or "", form, columns // largest_divisor(columns, LARGEST), got)


def _convolution(node: ir.Node, shape: tuple[int, ...]) -> Convolution:
    kernel = tuple(shape[2:])
    given = {name: tuple(a.as_ints()) for name in _LISTS if (a := node.attributes.get(name)) is not None}
    ones = (1,) * len(kernel)
    auto_pad = node.attributes.get("auto_pad")
    transposed = is_op(node, "ConvTranspose")
    return Convolution(
        kernel,
        given.get("strides", ones),
        given.get("dilations", ones),
        given.get("pads", (0,) * 2 * len(kernel)),
        attribute_int(node, "group", 1),
        "NOTSET" if auto_pad is None else auto_pad.as_string(),
        transposed,
        given.get("output_padding", ()) if transposed else (),
        given.get("output_shape", ()) if transposed else (),
    )


_LISTS = ("strides", "dilations", "pads", "output_padding", "output_shape")
