"""Operands: the value that a node multiplies its weight with, arranged as rows of a matrix product."""

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

# Columns of one Hessian: 32 MiB in float64, and its factors as much each. Wider weights are cut in parts,
# whose inputs are treated as uncorrelated.
LARGEST = 2048

Rounding = tuple[QParams, QType]
"""Scale and type of a quantized value."""


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm.

    Args:
        axis: of the activation, from the end, that is summed over.
        upright: the weight is [K, N], not [N, K].
    """

    axis: int
    upright: bool


@dataclass(frozen=True)
class Operand:
    """A value that a weight is multiplied with. Nodes that read the same value alike have the same operand.

    Args:
        value: its name.
        form: its arrangement.
        parts: the number of parts that its columns are cut into.
        rounding: of the value before the node; None in float.
    """

    value: str
    form: Convolution | Product
    parts: int
    rounding: Rounding | None = None

    def weight_rows(self, w: NDArray[Any]) -> NDArray[Any]:
        """Return a weight, or an array of its shape, as [G, O, K]: O sums over K in each of G groups."""
        if isinstance(self.form, Convolution):
            rows: NDArray[Any] = conv_weight_rows(w, self.form)
        else:
            rows = (w.reshape(len(w), -1).T if self.form.upright else w)[None]
        groups, count, columns = rows.shape
        cut = rows.reshape(groups, count, self.parts, columns // self.parts).swapaxes(1, 2)
        return cut.reshape(groups * self.parts, count, -1)

    def weight_of(self, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the inverse of `weight_rows`."""
        cut = rows.reshape(-1, self.parts, *rows.shape[1:]).swapaxes(1, 2)
        joined = cut.reshape(len(cut), rows.shape[1], -1)
        if isinstance(self.form, Convolution):
            return conv_weight_of(joined, shape, self.form)
        matrix: NDArray[Any] = joined[0].T if self.form.upright else joined[0]
        return matrix.reshape(shape)

    def count(self, x: F32) -> int:
        """Return the number of rows of x: outputs of a channel of a convolution, or rows of a matrix."""
        if isinstance(self.form, Convolution):
            return position_count(x.shape, self.form)
        return x.size // x.shape[self.form.axis] if x.size else 0

    def rows(self, x: F32, positions: NDArray[np.int64]) -> F32:
        """Return the rows of x, the value, at P positions: [G, P, K] float32."""
        if isinstance(self.form, Convolution):
            rows = patches(x, self.form, positions)
        else:
            last = x if self.form.axis == -1 or x.ndim < 2 else x.swapaxes(-1, -2)
            rows = last.reshape(-1, last.shape[-1])[positions][None]
        groups, count, columns = rows.shape
        cut = rows.reshape(groups, count, self.parts, columns // self.parts).swapaxes(1, 2)
        return cut.reshape(groups * self.parts, count, -1)

    def positions(self, x: F32, most: int) -> NDArray[np.int64]:
        """Return at most `most` positions of rows, spread evenly."""
        return spread_out(self.count(x), most)

    def rounded(self, x: F32) -> F32:
        """Return the value as the node reads it, after its quantization."""
        if self.rounding is None:
            return x
        params, qtype = self.rounding
        return dequantize(quantize(x, params, qtype), params)


def roundings_of(plan: Plan) -> dict[Use, Rounding]:
    """Return the rounding of each node's inputs by (node, input), or (value, -1) for all its consumers."""
    roundings: dict[Use, Rounding] = {}
    for site in plan.sites:
        if site.kind is Kind.ACTIVATION and site.qparams is not None:
            for use in site.uses if site.uses is not None else ((site.value, -1),):
                roundings[use] = site.qparams, site.spec.qtype
    return roundings


def operand_of(node: ir.Node, roundings: dict[Use, Rounding]) -> Operand | None:
    """Return the operand that a node multiplies its weight, its second input, with; None where there is none.

    Args:
        node: a Conv, ConvTranspose, MatMul or Gemm with a constant weight.
        roundings: from `roundings_of`.
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
    rounding = roundings.get((node.name or "", 0), roundings.get((x.name or "", -1)))
    return Operand(x.name or "", form, columns // largest_divisor(columns, LARGEST), rounding)


def _convolution(node: ir.Node, shape: tuple[int, ...]) -> Convolution:
    kernel = tuple(shape[2:])
    lists = {name: tuple(a.as_ints()) for name in _LISTS if (a := node.attributes.get(name)) is not None}
    ones = (1,) * len(kernel)
    auto_pad = node.attributes.get("auto_pad")
    transposed = is_op(node, "ConvTranspose")
    return Convolution(
        kernel,
        lists.get("strides", ones),
        lists.get("dilations", ones),
        lists.get("pads", (0,) * 2 * len(kernel)),
        attribute_int(node, "group", 1),
        "NOTSET" if auto_pad is None else auto_pad.as_string(),
        transposed,
        lists.get("output_padding", ()) if transposed else (),
        lists.get("output_shape", ()) if transposed else (),
    )


_LISTS = ("strides", "dilations", "pads", "output_padding", "output_shape")
