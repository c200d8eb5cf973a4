"""GPTQ: round the weights of each layer by the error of its output (numerics/gptq.py).

The inputs of a layer are those of the FP32 model, rounded as the quantized node will read them. So layers are
independent, in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qtool.data.samples import Samples
from qtool.graph.view import View, float_constant, is_op
from qtool.numerics.clip import FEW_BITS
from qtool.numerics.descent import fitted
from qtool.numerics.gptq import Grid, Hessian, Integers, gptq, hessian
from qtool.numerics.pairs import within_pairs
from qtool.numerics.qparams import F32, F64, QParams, fold, unfold
from qtool.numerics.quantize import spread
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.resolve import dequantized, integers_of, weight_params, with_bias_scales
from qtool.recover.hessians import HessianSpec, ModelRun, hessians
from qtool.recover.operands import Operand, Rounding, operand_of, roundings_of
from qtool.runtime.heartbeat import StepProgress, beat, no_progress
from qtool.tables.qtypes import TensorSpec

Key = tuple[str, TensorSpec]
"""A weight and its spec: sites that agree in both have the same integers."""

# Weights that are written as integers; tables that Gather reads rows of have no products.
KINDS = frozenset({Kind.WEIGHT, Kind.FUSED, Kind.STORED})
_OPS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_WEIGHT = 1
_MOST_BITS = 8
# Bytes of the Hessians that are factored together.
_ROOM = 16 << 20


def round_weights(
    view: View,
    plan: Plan,
    samples: Samples,
    threads: int = 0,
    progress: StepProgress = no_progress,
    fit: Fit | None = None,
) -> Plan:
    """Return a plan with weights rounded anew, and of 4 bits or fewer with scales chosen anew.

    By the squared error of each layer's output over these samples no row of a weight gets worse, but for what
    a limit on pairs takes back (numerics/pairs.py). The whole model may: measure it. Scales of 8 bits stay;
    those of biases follow their weights.

    Args:
        view: of the prepared model.
        plan: resolved.
        samples: for the Hessians; 16 to 64 are run.
        threads: of the runtime.
        progress: called with the runs done and the runs in all.
        fit: rounds the weights of a layer; None: by GPTQ, without weights that have integers.

    Raises:
        DataError: a sample does not fit the model.
        RuntimeFailure: the model fails on a sample.
    """
    sites_of: dict[HessianSpec, list[Site]] = {}
    for site, spec in hessian_specs(view, plan).values():
        if fit is not None or site.integers is None:
            sites_of.setdefault(spec, []).append(site)
    rounded: dict[Key, Site] = {}
    for spec, sums in hessians(ModelRun(view.model, samples, threads, progress), list(sites_of)):
        for site in _rounded(view, sites_of[spec], spec.operands[0], sums, fit or by_gptq):
            rounded[site.value, site.spec] = site
        del sums  # not kept while the next ones are added up
        beat()

    def with_integers(site: Site) -> Site:
        new = rounded.get((site.value, site.spec))
        return site if new is None else replace(site, integers=new.integers, qparams=new.qparams)

    return with_bias_scales(replace(plan, sites=tuple(with_integers(s) for s in plan.sites)))


def hessian_specs(view: View, plan: Plan) -> dict[Key, tuple[Site, HessianSpec]]:
    """Return the weights that can be rounded by a Hessian, each with its spec.

    All nodes that read the weight must multiply with it: where a Gather reads it too, the error has another
    measure. So it has for a weight that is tied to a table.
    """
    roundings = roundings_of(plan)
    consumers: dict[Key, list[Operand | None]] = {}
    sites: dict[Key, Site] = {}
    for site in plan.sites:
        qtype = site.spec.qtype
        if site.kind not in KINDS or qtype.bits > _MOST_BITS or not qtype.zero:
            continue
        key = site.value, site.spec
        sites[key] = site
        consumers.setdefault(key, []).extend(_operand(view, *use, roundings) for use in site.uses or ())
    specs = {}
    for key, operands in consumers.items():
        distinct = tuple(dict.fromkeys(o for o in operands if o is not None))
        weight = float_constant(view.values[key[0]])
        if None in operands or not distinct or weight is None or key[0] in view.tied:
            continue
        shapes = {o.weight_rows(weight).shape for o in distinct}
        if len(shapes) == 1:
            groups, _, columns = shapes.pop()
            specs[key] = sites[key], HessianSpec(distinct, groups, columns)
    return specs


def _operand(view: View, name: str, index: int, roundings: dict[tuple[str, int], Rounding]) -> Operand | None:
    node = view.node_by_name[name]
    x = node.inputs[0]
    if index != _WEIGHT or not is_op(node, *_OPS) or x is None or not view.in_main(x):
        return None
    return operand_of(node, roundings)


@dataclass(frozen=True, eq=False)
class WeightRows:
    """A weight as the rows of a matrix product, with the grid of its scales.

    Args:
        rows: [G, O, K] float32.
        grid: of the rows.
        index: [G, O, B]: the position of each of the grid's scales in the site's scales, flattened.
        symmetric: its zero points stay.
        free: its scales may change: few bits, and one row for each scale.
        start: [G, O, K]: its integers now.
    """

    rows: F32
    grid: Grid
    index: NDArray[np.intp]
    symmetric: bool
    free: bool
    start: Integers

    def part(self, groups: slice) -> WeightRows:
        """Return some of its groups."""
        grid = Grid(self.grid.scale[groups], self.grid.zero[groups], self.grid.qtype)
        return replace(
            self, rows=self.rows[groups], grid=grid, index=self.index[groups], start=self.start[groups]
        )


Fitted = tuple[Integers, Grid]
Fit = Callable[[WeightRows, Hessian], Fitted]
"""Rounds rows by a Hessian: integers [G, O, K] and their grid."""


def _weight_rows(view: View, site: Site, operand: Operand) -> WeightRows:
    w, params = _resolved(view, site)
    granularity, qtype = site.spec.granularity, site.spec.qtype
    numbers = np.arange(params.scale.size).reshape(params.scale.shape)
    over = np.broadcast_to(spread(numbers, granularity, w.ndim), unfold(w, granularity).shape)
    wide = operand.weight_rows(fold(over, granularity, w.shape))
    # Runs of equal length, or a scale for every column.
    size = int(np.argmax(wide[0, 0] != wide[0, 0, 0])) or wide.shape[2]
    index = wide[:, :, ::size]
    if wide.shape[2] % size or not np.array_equal(np.repeat(index, size, axis=2), wide):
        index = wide
    grid = Grid(params.scale.reshape(-1)[index], params.zero_point.reshape(-1)[index], qtype)
    free = qtype.bits <= FEW_BITS and index.size == numbers.size
    start = np.asarray(operand.weight_rows(integers_of(site, w)), np.int16)
    return WeightRows(operand.weight_rows(w), grid, index, site.spec.symmetric, free, start)


def _rounded(view: View, sites: Sequence[Site], operand: Operand, sums: F64, fit: Fit) -> list[Site]:
    """Sites with the same Hessian, rounded by it."""
    weights = [_weight_rows(view, site, operand) for site in sites]
    fits: list[list[Fitted]] = [[] for _ in sites]
    step = max(1, _ROOM // sums[0].nbytes)
    for start in range(0, len(sums), step):
        part = slice(start, start + step)
        on = hessian(sums[part])
        for own, weight in zip(fits, weights, strict=True):
            own.append(fit(weight.part(part), on))
        del on  # as large as the sums: not kept while the next one is made
    return [_joined(view, *three, operand) for three in zip(sites, weights, fits, strict=True)]


def _joined(view: View, site: Site, weight: WeightRows, fits: list[Fitted], operand: Operand) -> Site:
    """The site with the integers and scales of its groups."""
    w, old = _resolved(view, site)
    q, scales, zeros = (np.concatenate(a) for a in zip(*((q, g.scale, g.zero) for q, g in fits), strict=True))
    params = old
    if weight.free:
        scale, zero = old.scale.copy(), old.zero_point.copy()
        scale.reshape(-1)[weight.index], zero.reshape(-1)[weight.index] = scales, zeros
        params = QParams(scale, zero)
    integers = operand.weight_of(q, w.shape).astype(site.spec.qtype.dtype)
    if site.spec.qtype.pairs:
        integers = within_pairs(integers, site.spec.granularity, site.spec.qtype.pairs)
    new = replace(site, integers=integers, qparams=params)
    plain = replace(new, integers=None)
    # Integers that are the nearest ones are not stored.
    return plain if np.array_equal(dequantized(plain, w), dequantized(new, w)) else new


def _resolved(view: View, site: Site) -> tuple[F32, QParams]:
    w = float_constant(view.values[site.value])
    if w is None:
        raise KeyError(f"'{site.value}' is not a float constant")
    return w, weight_params(site, w)


def by_gptq(weight: WeightRows, on: Hessian) -> Fitted:
    """Return rows rounded by GPTQ, of few bits with new scales; no row is worse than rounded to nearest."""
    if not weight.free:
        return gptq(weight.rows, on, weight.grid), weight.grid
    return fitted(weight.rows, on, weight.grid, symmetric=weight.symmetric)
