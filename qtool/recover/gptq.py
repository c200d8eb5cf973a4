"""Weights of a plan rounded by what their layers give out: integers, and of few bits scales, of their own.

What a layer is fed is taken from the FP32 model, rounded as the node will get it; so no layer waits for
another one, and the order of layers is of no account.
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
from qtool.numerics.qparams import F32, F64, QParams, unfold
from qtool.numerics.quantize import spread
from qtool.plan.model import Kind, Plan, Site
from qtool.plan.resolve import integers_of, restored
from qtool.recover.hessians import Streamed, Wanted, hessians
from qtool.recover.operands import Operand, Seen, operand_of, seen_by
from qtool.runtime.heartbeat import beat
from qtool.tables.qtypes import TensorSpec

Progress = Callable[[int, int], None]
Key = tuple[str, TensorSpec]
"""A weight and how it is quantized: sites that agree in both have the same integers."""

# Of what is written as integers of its own; tables of which rows are picked have no products.
KINDS = frozenset({Kind.WEIGHT, Kind.FUSED, Kind.STORED})
_OPS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_WEIGHT = 1
_MOST_BITS = 8
# Bytes of the sums that are factored together.
_ROOM = 16 << 20


def improved(
    view: View,
    plan: Plan,
    samples: Samples,
    threads: int = 0,
    progress: Progress = lambda done, total: None,
    fit: Fit | None = None,
) -> Plan:
    """A resolved plan whose weights are rounded anew, with clipped ranges where they have 4 bits or fewer.

    On what it is judged by, each layer's own squared error over these samples, no row of a weight gets worse;
    the model as a whole may, and is to be measured. Scales of 8 bits stay, as do biases.

    Args:
        view: of the prepared model.
        plan: resolved, for that model.
        samples: of which 16 to 64 are taken; not those that the result is judged on.
        threads: of the runtime.
        progress: called with how many runs of how many are done.
        fit: how the weights of a layer are rounded; None: by GPTQ, but for those that have integers by now.

    Raises:
        DataError: samples that do not fit the model.
        RuntimeFailure: the model fails on one.
    """
    return rounded_by(Streamed(view.model, samples, threads, progress), view, plan, fit)


def rounded_by(streamed: Streamed, view: View, plan: Plan, fit: Fit | None = None) -> Plan:
    """The same from samples through any model whose values have the prepared model's names."""
    waiting: dict[Wanted, list[Site]] = {}
    for site, want in wanted_of(view, plan).values():
        if fit is None and site.integers is not None:
            continue
        waiting.setdefault(want, []).append(site)
    found: dict[Key, Site] = {}
    for want, sums in hessians(streamed, list(waiting)):
        for site in _better(view, waiting[want], want.operands[0], sums, fit or by_gptq):
            found[site.value, site.spec] = site
        beat()

    def better(site: Site) -> Site:
        new = found.get((site.value, site.spec))
        return site if new is None else replace(site, integers=new.integers, qparams=new.qparams)

    return replace(plan, sites=tuple(better(s) for s in plan.sites))


def wanted_of(view: View, plan: Plan) -> dict[Key, tuple[Site, Wanted]]:
    """The weights that can be rounded so, and what each is multiplied with.

    That must be known of all who read it: a table that a Gather reads as well has another measure of error.
    """
    seen = seen_by(plan)
    readers: dict[Key, list[Operand | None]] = {}
    sites: dict[Key, Site] = {}
    for site in plan.sites:
        if site.kind not in KINDS or site.spec.qtype.bits > _MOST_BITS or site.qparams is None:
            continue
        key = site.value, site.spec
        sites[key] = site
        readers.setdefault(key, []).extend(_operand(view, *use, seen) for use in site.uses or ())
    found = {}
    for key, operands in readers.items():
        known = tuple(dict.fromkeys(o for o in operands if o is not None))
        weight = float_constant(view.values[key[0]])
        if None in operands or not known or weight is None:
            continue
        shapes = {o.weight_rows(weight).shape for o in known}
        if len(shapes) == 1:
            groups, _, columns = shapes.pop()
            found[key] = sites[key], Wanted(known, groups, columns)
    return found


def _operand(view: View, name: str, index: int, seen: dict[tuple[str, int], Seen]) -> Operand | None:
    node = view.node_by_name[name]
    x = node.inputs[0]
    if index != _WEIGHT or not is_op(node, *_OPS) or x is None or not view.in_main(x):
        return None
    return operand_of(node, seen)


@dataclass(frozen=True, eq=False)
class Arranged:
    """A site's weight as rows, and its scales as they lie over these.

    Args:
        rows: [G, O, K] float32.
        grid: of them.
        index: [G, O, B]: where in the site's scales, flattened, each of the grid's is from.
        symmetric: its zero points stay.
        free: its scales may change: they are of few bits, each of one row, and no bias rests on them.
        start: [G, O, K]: the integers that it has by now.
    """

    rows: F32
    grid: Grid
    index: NDArray[np.intp]
    symmetric: bool
    free: bool
    start: Integers

    def part(self, groups: slice) -> Arranged:
        """Some of its groups."""
        grid = Grid(self.grid.scale[groups], self.grid.zero[groups], self.grid.qtype)
        return replace(
            self, rows=self.rows[groups], grid=grid, index=self.index[groups], start=self.start[groups]
        )


Fitted = tuple[Integers, Grid]
Fit = Callable[[Arranged, Hessian], Fitted]
"""Rounds some rows by what their errors do to the layer: integers [G, O, K], and the grid they are on."""


def _arranged(view: View, site: Site, operand: Operand) -> Arranged:
    w, params = _known(view, site)
    granularity, qtype = site.spec.granularity, site.spec.qtype
    numbers = np.arange(params.scale.size).reshape(params.scale.shape)
    over = np.broadcast_to(spread(numbers, granularity, w.ndim), unfold(w, granularity).shape)
    wide = operand.weight_rows(over.reshape(w.shape))
    # Runs of equal length, or else a scale for every column.
    size = int(np.argmax(wide[0, 0] != wide[0, 0, 0])) or wide.shape[2]
    index = wide[:, :, ::size]
    if wide.shape[2] % size or not np.array_equal(np.repeat(index, size, axis=2), wide):
        index = wide
    grid = Grid(params.scale.reshape(-1)[index], params.zero_point.reshape(-1)[index], qtype)
    free = qtype.bits <= FEW_BITS and index.size == numbers.size and site.kind is not Kind.WEIGHT
    start = np.asarray(operand.weight_rows(integers_of(site, w)), np.int16)
    return Arranged(operand.weight_rows(w), grid, index, site.spec.symmetric, free, start)


def _better(view: View, sites: Sequence[Site], operand: Operand, sums: F64, fit: Fit) -> list[Site]:
    """Sites that are multiplied with the same, with integers, and perhaps scales, of less error."""
    laid = [_arranged(view, site, operand) for site in sites]
    fits: list[list[Fitted]] = [[] for _ in sites]
    step = max(1, _ROOM // sums[0].nbytes)
    for start in range(0, len(sums), step):
        part = slice(start, start + step)
        on = hessian(sums[part])
        for each, of in zip(fits, laid, strict=True):
            each.append(fit(of.part(part), on))
    return [_joined(view, *three, operand) for three in zip(sites, laid, fits, strict=True)]


def _joined(view: View, site: Site, laid: Arranged, fits: list[Fitted], operand: Operand) -> Site:
    """The site with what was found for its groups."""
    w, old = _known(view, site)
    q, scales, zeros = (np.concatenate(a) for a in zip(*((q, g.scale, g.zero) for q, g in fits), strict=True))
    params = old
    if laid.free:
        scale, zero = old.scale.copy(), old.zero_point.copy()
        scale.reshape(-1)[laid.index], zero.reshape(-1)[laid.index] = scales, zeros
        params = QParams(scale, zero)
    integers = operand.weight_of(q, w.shape).astype(site.spec.qtype.dtype)
    new = replace(site, integers=integers, qparams=params)
    plain = replace(new, integers=None)
    # Where these are the nearest there is nothing to keep.
    return plain if np.array_equal(restored(plain, w), restored(new, w)) else new


def _known(view: View, site: Site) -> tuple[F32, QParams]:
    w = float_constant(view.values[site.value])
    if w is None or site.qparams is None:
        raise KeyError(f"'{site.value}' is no float constant, or not resolved")
    return w, site.qparams


def by_gptq(laid: Arranged, on: Hessian) -> Fitted:
    """Rounded, and of few bits clipped and scaled anew: no row worse than the nearest on the given grid."""
    w, given = laid.rows, laid.grid
    if not laid.free:
        return gptq(w, on, given), given
    return fitted(w, on, given, symmetric=laid.symmetric)
