"""The constants that a quantized weight becomes: its integers, scales and zero points, in some form.

Those of a weight in a side file are computed while the model is saved, and few are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.edit import add_constant, computed, owner
from qtool.numerics.qparams import QParams, scale_shape, unfold, unfolded_shape
from qtool.numerics.quantize import spread
from qtool.plan.model import Site
from qtool.rewrite.writer import Writer
from qtool.tables.qtypes import QType

Make = Callable[[NDArray[Any], QParams], NDArray[Any]]
"""Makes a constant of the integers of a weight, in the shape of the weight, and of its scales."""


def weight_constant(
    writer: Writer,
    site: Site,
    name: str,
    make: Make,
    dtype: ir.DataType,
    shape: Sequence[int],
    *,
    graph: ir.Graph | None = None,
    key: tuple[Any, ...] = (),
) -> ir.Value:
    """Return a constant that is made of a quantized weight; the same one at each call for its name.

    Args:
        writer, site: of the weight.
        name: of the constant; a weight with two forms has a key beside it.
        make: makes its array.
        dtype, shape: of that array.
        graph: the graph that holds it; None: that of the weight.
        key: tells forms of one name apart.
    """
    value = writer.view.values[site.value]
    weight, graph = value.const_value, owner(value) if graph is None else graph
    key = (name, site.spec, *key, id(graph))
    if weight is None:
        raise KeyError(f"'{site.value}' is no constant")
    if key not in writer.initializers:
        tensor = computed(value, lambda _: make(*writer.rounded.of(site, weight)), dtype, shape)
        if site.value in writer.view.tied:  # the file has one of both: they are compared (rewrite/shared.py)
            tensor = ir.tensor(tensor.numpy())
        writer.initializers[key] = add_constant(graph, writer.namer(name), tensor)
    return writer.initializers[key]


def rounded(writer: Writer, site: Site) -> tuple[NDArray[Any], QParams]:
    """Return the integers of a weight, in its shape, and its scales."""
    weight = writer.view.values[site.value].const_value
    if weight is None:
        raise KeyError(f"'{site.value}' is no constant")
    return writer.rounded.of(site, weight)


def integers(writer: Writer, site: Site, *, shape: Sequence[int] | None = None) -> ir.Value:
    """Return the integers of a weight in this shape; None: blocks on an axis of their own."""
    granularity, qtype = site.spec.granularity, site.spec.qtype
    unfolded = unfolded_shape(weight_shape(writer, site), granularity)

    def make(q: NDArray[Any], _: QParams) -> NDArray[Any]:
        return packed(unfold(q, granularity) if shape is None else q.reshape(shape), qtype)

    dims = unfolded if shape is None else tuple(shape)
    name = f"{site.value}_quantized"
    return weight_constant(writer, site, name, make, dtype_in_file(qtype), dims, key=(dims,))


def scales(writer: Writer, site: Site, name: str, *, spread_out: bool) -> ir.Value:
    """Return the scales of a weight; spread out, they broadcast over its unfolded integers."""
    return _of_scales(writer, site, name, lambda p: p.scale, ir.DataType.FLOAT, spread_out=spread_out)


def zero_points(writer: Writer, site: Site, name: str, *, spread_out: bool) -> ir.Value:
    """Return the zero points of a weight, in the shape of `scales`."""
    qtype = site.spec.qtype
    return _of_scales(
        writer, site, name, lambda p: packed(p.zero_point, qtype), dtype_in_file(qtype), spread_out=spread_out
    )


def _of_scales(
    writer: Writer,
    site: Site,
    name: str,
    pick: Callable[[QParams], NDArray[Any]],
    dtype: ir.DataType,
    *,
    spread_out: bool,
) -> ir.Value:
    shape, granularity = weight_shape(writer, site), site.spec.granularity

    def spread_over(array: NDArray[Any]) -> NDArray[Any]:
        return spread(array, granularity, len(shape)) if spread_out else array

    dims = spread_over(np.empty(scale_shape(shape, granularity), np.bool_)).shape
    return weight_constant(writer, site, name, lambda _, p: spread_over(pick(p)), dtype, dims, key=(dims,))


def weight_shape(writer: Writer, site: Site) -> tuple[int, ...]:
    """Return the shape of a weight, without reading it."""
    tensor = writer.view.values[site.value].const_value
    if tensor is None:
        raise KeyError(f"'{site.value}' is no constant")
    return tuple(tensor.shape.numpy())


def packed(q: NDArray[Any], qtype: QType) -> NDArray[Any]:
    """Return integers in the type that they have in the file."""
    return q.astype(getattr(ml_dtypes, qtype.in_file, None) or qtype.in_file)


def dtype_in_file(qtype: QType) -> ir.DataType:
    """Return the type of integers in the file."""
    return ir.DataType[qtype.in_file.upper()]
