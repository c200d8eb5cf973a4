"""The QDQ graph that a resolved plan makes, before it is written: the Q and DQ around each node.

These are those of the plan's sites, and those that the model came with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtool.graph.view import View, constant, float_constant, is_op, rank, sole_consumer
from qtool.plan.edits import EditKind
from qtool.plan.grids import Grid, clamp_limits, grid_of, grid_of_site, product_scale
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.outlier_columns import end_of
from qtool.tables.forms import Form
from qtool.tables.targets import TARGETS

_BARRIERS = (EditKind.QUANTIZER_BARRIER, EditKind.RESULT_BARRIER)


@dataclass(frozen=True)
class Result:
    """The only Q that reads a value.

    Args:
        grid: of the Q.
        clamp: the Relu or Clip before the Q, if any.
        q: the Q, where the model came with it; None for a site's own.
        given: the integers are an output of the model.
    """

    grid: Grid
    clamp: ir.Node | None
    q: ir.Node | None
    given: bool


class QdqView:
    """Answers questions about the Q and DQ of a plan.

    Args:
        plan: resolved.
        view: of the prepared model.
    """

    def __init__(self, plan: Plan, view: View) -> None:
        self.plan, self.view = plan, view
        self.contrib = TARGETS[plan.target].onnxruntime
        read = (Kind.ACTIVATION, Kind.WEIGHT, Kind.BIAS)
        self._read = {use: s for s in plan.sites if s.kind in read for use in s.uses or ()}
        self.sites = {s.value: s for s in plan.sites if s.kind is Kind.ACTIVATION}
        split = {n for s in plan.sites if s.value in plan.outlier_columns for n, _ in s.uses or ()}
        ends = (view.node_by_name[end_of(n, view)].outputs[0].name or "" for n in split)
        # Something else than a Q reads these: a Max, a Sum, a Gather.
        self.apart = {*(e.value for e in plan.edits if e.kind in _BARRIERS), *ends, *plan.outlier_columns}

    def is_given(self, site: Site, value: ir.Value) -> bool:
        """Whether the Q of a site makes an output of the model."""
        return value.is_graph_output() and site.uses is None and self.plan.choices.io == site.spec.qtype.name

    def _site_of(self, node: ir.Node, index: int) -> Site | None:
        value = node.inputs[index]
        whole = self.sites.get(value.name or "") if value is not None else None
        found = self._read.get((node.name or "", index))
        return found or (whole if whole is not None and whole.uses is None else None)

    def operand(self, node: ir.Node, index: int) -> Grid | None:
        """The grid of the DQ that makes an input."""
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            return None
        site = self._site_of(node, index)
        if site is not None:
            return grid_of_site(site) if site.kind is not Kind.BIAS else None
        maker = value.producer()
        return grid_of(maker) if maker is not None and is_op(maker, "DequantizeLinear") else None

    def activation(self, node: ir.Node, index: int) -> Grid | None:
        """The same with one scale for the whole tensor."""
        found = self.operand(node, index)
        return found if found is not None and found.axis is None else None

    def axes(self, node: ir.Node, index: int) -> int | None:
        """Return the rank of an input, or of the integers behind it where its own is not known."""
        value = node.inputs[index]
        maker = value.producer() if value is not None else None
        found = rank(value)
        behind = found is None and maker is not None and is_op(maker, "DequantizeLinear")
        return rank(maker.inputs[0]) if behind and maker is not None else found

    def is_constant(self, node: ir.Node, index: int) -> bool:
        """Whether the integers of an input are in the file."""
        value = node.inputs[index]
        site = self._site_of(node, index)
        if site is not None:
            return constant(value) is not None
        maker = value.producer() if value is not None else None
        return maker is not None and constant(maker.inputs[0]) is not None

    def bias(self, node: ir.Node, index: int, a: Grid, b: Grid) -> bool:
        """Whether an input is an int32 [N] bias at the product of two scales."""
        wanted = product_scale(a, b)
        site = self._site_of(node, index)
        if site is not None:
            if site.kind is not Kind.BIAS or site.qparams is None:
                return False
            scale: NDArray[np.float32] | None = site.qparams.scale
        else:
            value = node.inputs[index]
            maker = value.producer() if value is not None else None
            if maker is None or not is_op(maker, "DequantizeLinear"):
                return False
            array, scale = constant(maker.inputs[0]), float_constant(maker.inputs[1])
            if array is None or array.dtype != np.int32 or array.ndim != 1:
                return False
            if len(maker.inputs) > 2 and (zero := constant(maker.inputs[2])) is not None and zero.any():
                return False
        if scale is None or not (scale.size in (1, wanted.size) or wanted.size == 1):
            return False
        return bool(np.allclose(scale, wanted, rtol=1e-6, atol=0))

    def reader(self, value: ir.Value) -> ir.Node | None:
        """The only node that reads a value's floats, where no site quantizes it."""
        if value.name in self.sites or value.name in self.apart:
            return None
        found = sole_consumer(value)
        return None if found is None or self.plan.forms.get(found.name or "") is Form.HALF else found

    def result(self, value: ir.Value) -> Result | None:
        """The Q that a value goes into, when that is all that becomes of it."""
        clamp = self.reader(value)
        if clamp is not None and is_op(clamp, "Relu", "Clip") and clamp.inputs[0] is value:
            found = self._q_of(clamp.outputs[0]) if clamp_limits(clamp) is not None else None
            return replace(found, clamp=clamp) if found is not None else None
        return self._q_of(value)

    def _q_of(self, value: ir.Value) -> Result | None:
        site = self.sites.get(value.name or "")
        if site is None:
            q = self.reader(value)
            if q is None or not is_op(q, "QuantizeLinear") or q.inputs[0] is not value:
                return None
            grid = grid_of(q)
            fits = grid is not None and grid.axis is None
            return Result(grid, None, q, q.outputs[0].is_graph_output()) if grid and fits else None
        uses = {(use.node.name or "", use.idx) for use in value.uses()}
        whole = site.uses is None or (uses == set(site.uses) and not value.is_graph_output())
        grid = grid_of_site(site)
        if not whole or value.name in self.apart or grid is None:
            return None
        return Result(grid, None, None, self.is_given(site, value))
