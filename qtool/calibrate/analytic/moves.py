"""Ops that move, pick or repeat values: channels go where the values go, or are pooled where that is open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from qtool.calibrate.analytic.call import Call
from qtool.calibrate.analytic.nodes import F64, reaching
from qtool.calibrate.analytic.reshape import moved
from qtool.calibrate.analytic.spread import (
    MOST_CHANNELS,
    Source,
    Spread,
    any_of,
    constant_spread,
    spread,
    table_spread,
    unknown,
    weakest,
)
from qtool.graph.view import constant


def apart(rule: Callable[[Call], Spread | list[Spread]]) -> Callable[[Call], list[Spread]]:
    """A rule of an op that moves values: what lies at one place in and out are different elements."""

    def moving(call: Call) -> list[Spread]:
        made = rule(call)
        every = [made] if isinstance(made, Spread) else made
        return [replace(x, source=x.source and Source(), shares=False) for x in every]

    return moving


def unmoved(call: Call) -> Spread:
    """The input itself: Identity, Dropout, and what only grows axes of length 1."""
    return call[0]


def picked(call: Call) -> list[Spread]:
    """Some of the elements, and perhaps their indices: TopK, GatherElements, GatherND."""
    return [call[0].scalar(), *[unknown()] * (len(call.node.outputs) - 1)]


def triangle(call: Call) -> Spread:
    """Trilu: the elements of a triangle, and zeros."""
    return any_of([call[0].scalar(), constant_spread(np.zeros(()))])


def transpose(call: Call) -> Spread:
    """Axes in another order."""
    rank, perm = call.rank(), call.attribute_ints("perm")
    if perm is None:
        if rank is None:
            return call[0].scalar()
        perm = list(reversed(range(rank)))
    x = call[0].aligned(len(perm))
    return moved(x, lambda channels: np.transpose(channels, perm))


def concat(call: Call) -> Spread:
    """Channels one after the other along the axis, where the lengths are known."""
    indices = range(call.count)
    cached = [i for i in indices if not call[i].known and _is_cache(call, i)]
    kept = [i for i in indices if i not in cached] or list(indices)
    rank = call.rank()
    if rank is None:
        return any_of([call[i] for i in kept])
    axis = call.whole("axis", 0) % rank
    inputs = [call[i].aligned(rank) for i in kept]
    lengths = [None if (d := call.dims(i)) is None else d[axis] for i in kept]
    known_lengths = [n for n in lengths if n is not None]
    if cached or len(known_lengths) < len(inputs) or sum(known_lengths) > MOST_CHANNELS:
        made = any_of([x.pooled([axis]) for x in inputs])
        # What is kept from an earlier run spreads alike, but nobody need feed just that.
        return spread(made.values, basis=made.basis, masked=made.masked) if cached else made
    others = np.broadcast_shapes(*((*x.channels[:axis], 1, *x.channels[axis + 1 :]) for x in inputs))
    shapes = [(*others[:axis], n, *others[axis + 1 :]) for n in known_lengths]
    parts = [x.stretched(shape) for x, shape in zip(inputs, shapes, strict=True)]
    lo, hi = (np.concatenate([getattr(x, end) for x in parts], axis) for end in ("lo", "hi"))
    masked, basis = any(x.masked for x in parts), weakest(*(x.basis for x in parts))
    known = [x.values for x in parts if x.values is not None]
    values = np.concatenate(known, axis + 1) if len(known) == len(parts) else None
    return spread(values, lo, hi, basis, masked=masked)


def _is_cache(call: Call, index: int) -> bool:
    """Whether an input holds what an earlier run put out here: keys and values of past tokens."""
    value = call.value(index)
    return value is not None and value.is_graph_input() and call.node.outputs[0].is_graph_output()


def slices(call: Call) -> Spread:
    """Slice: channels picked along with the values, or pooled along axes whose bounds are computed."""
    rank = call.rank()
    if rank is None:
        return call[0].scalar()
    x = call[0].aligned(rank)
    starts, ends = call.ints(1, "starts"), call.ints(2, "ends")
    axes = call.ints(3, "axes") if call.has(3) or "axes" in call.node.attributes else list(range(rank))
    steps = call.ints(4, "steps") if call.has(4) else [1] * len(axes or [])
    if axes is None:
        return x.scalar().aligned(rank)
    for at, axis in enumerate(axes):
        axis %= rank
        if x.channels[axis] == 1:
            continue
        dims = call.dims() or ()
        if starts is None or ends is None or steps is None or dims[axis] != x.channels[axis]:
            x = x.pooled([axis])
            continue
        taken = slice(starts[at], None if ends[at] < -x.channels[axis] else ends[at], steps[at])
        picked = np.arange(x.channels[axis])[taken]
        x = moved(x, partial(np.take, indices=picked, axis=axis)) if picked.size else x.pooled([axis])
    return x


def split(call: Call) -> list[Spread]:
    """Split: as Slice, where the lengths of all parts are known."""
    outputs = len(call.node.outputs)
    rank = call.rank()
    if rank is None:
        return [call[0].scalar()] * outputs
    axis = call.whole("axis", 0) % rank
    x = call[0].aligned(rank)
    made = [call.made(i) for i in range(outputs)]
    lengths = [None if d is None else d[axis] for d in made]
    if (
        x.channels[axis] == 1
        or any(n is None for n in lengths)
        or sum(n or 0 for n in lengths) != x.channels[axis]
    ):
        return [x.pooled([axis])] * outputs
    cuts = np.cumsum([n or 0 for n in lengths])[:-1]
    return [
        moved(x, partial(_part, cuts=cuts, axis=axis, index=i)) if lengths[i] else x.pooled([axis])
        for i in range(outputs)
    ]


def _part(channels: F64, cuts: NDArray[np.int64], axis: int, index: int) -> F64:
    return np.split(channels, cuts, axis)[index]


def gather(call: Call) -> Spread:
    """Gather: rows of a constant table, whichever they are; or a constant choice among channels."""
    table, picked, axis = constant(call.value(0)), call.constant(1), call.whole("axis", 0)
    if table is not None and table.ndim:
        if picked is not None:
            return constant_spread(np.take(table, picked.astype(np.int64), axis))
        whole_rows = table.ndim == 2 and axis % 2 == 0
        return table_spread(table) if whole_rows else table_spread(table.reshape(-1, 1)).scalar()
    rank = call.rank()
    if rank is None or picked is None or picked.ndim > 1:
        return call[0].scalar()
    x, axis = call[0].aligned(rank), axis % rank
    if x.channels[axis] != 1:
        return moved(x, partial(np.take, indices=picked.astype(np.int64), axis=axis))
    return x if picked.ndim else x.reshaped((*x.channels[:axis], *x.channels[axis + 1 :]))


def tile(call: Call) -> Spread:
    """Tile: channels repeat; pooled along axes whose repeats are computed."""
    repeats = call.ints(1, "repeats")
    rank = call.rank()
    if rank is None:
        return call[0].scalar()
    x = call[0].aligned(rank)
    for axis in range(rank):
        if x.channels[axis] != 1 and (repeats is None or repeats[axis] != 1):
            x = x.pooled([axis])
    return x


def pad(call: Call) -> Spread:
    """Pad: the values, and a constant among them."""
    x = call[0].scalar() if call.rank() is None else _unpadded(call)
    if call.text("mode", "constant") != "constant":
        return x
    value = call.constant(2) if call.has(2) else np.asarray(call.real("value", 0.0))
    if value is None:
        return unknown()
    fill = float(value.reshape(-1)[0]) if value.size else 0.0
    lo, hi = np.minimum(x.lo, fill), np.maximum(x.hi, fill)
    if x.values is None:
        return unknown(lo, hi)
    least, most = np.minimum(x.values.min(0), fill), np.maximum(x.values.max(0), fill)
    return spread(reaching(x.values, least, most), lo, hi, x.basis, masked=x.masked)


def _unpadded(call: Call) -> Spread:
    """Channels pooled along axes that are padded."""
    rank = call.rank() or 0
    x = call[0].aligned(rank)
    before, after = call.dims() or (), call.made() or (None,) * rank
    return x.pooled([a for a in range(rank) if before[a] is None or before[a] != after[a]])


def depth_to_space(call: Call) -> Spread:
    """Each output channel takes turns among blocksize^2 input channels."""
    x = call[0].aligned(4)
    size = call.whole("blocksize", 1) ** 2
    channels = x.channels[1]
    x = x.pooled([0, 2, 3])
    if channels == 1 or channels % size:
        return x.scalar()
    shape = (size, -1) if call.text("mode", "DCR") == "DCR" else (-1, size)
    axis = 0 if shape[0] == size else 1
    made = moved(x, lambda c: c.reshape(shape)).pooled([axis])
    return moved(made, lambda c: c.reshape(1, -1, 1, 1))


def space_to_depth(call: Call) -> Spread:
    """Output channels are the input channels, blocksize^2 times over."""
    x = call[0].aligned(4).pooled([0, 2, 3])
    size = call.whole("blocksize", 1) ** 2
    return moved(x, lambda c: np.tile(c, (1, size, 1, 1))) if x.channels[1] != 1 else x


def resize(call: Call) -> Spread:
    """Interpolated values lie among their neighbours, save for cubic ones, which overshoot, and crops."""
    x = call[0].scalar() if call.rank() is None else call[0].aligned(call.rank() or 0)
    x = x.pooled([a for a in range(len(x.channels)) if a != 1])
    outside = call.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if call.text("mode", "nearest") != "cubic" and not outside:
        return x
    return spread(x.values, basis=x.basis, masked=x.masked)


def grid_sample(call: Call) -> Spread:
    """Interpolated at places that another input says; beyond the borders there may be zeros."""
    x = call[0].scalar()
    if call.text("padding_mode", "zeros") == "zeros":
        x = any_of([x, constant_spread(np.zeros(()))])
    overshoots = call.text("mode", "linear") in ("cubic", "bicubic")
    return spread(x.values, basis=x.basis, masked=x.masked) if overshoots else x
