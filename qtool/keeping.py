"""Small weights that err most, of nodes that run in float, stay so: hardly a byte, and no time, is lost."""

from __future__ import annotations

from dataclasses import replace

from qtool.data.samples import Source as Samples
from qtool.graph.view import float_constant
from qtool.measure.sensitivity import sensitivity
from qtool.plan.model import Kind, Site
from qtool.plan.predict import key_of
from qtool.planning import Planned
from qtool.tables.forms import Form
from qtool.tables.qtypes import FLOAT32

# Of the model's bytes, all that is added.
_BYTES = 0.02
# Weights that make less noise than this share of all of these weights' are left as they are.
_SHARE = 0.02


def kept_float(planned: Planned, held_out: Samples) -> Planned:
    """The same plan with some stored weights as they were, those first that make most noise for their bytes.

    Args:
        planned: resolved; where weights alone are quantized nothing is changed.
        held_out: samples that say what errs.
    """
    job = planned.job
    if job.scheme.form not in (Form.INT8, Form.DYNAMIC):
        return planned
    room = _BYTES * job.source.size
    sizes = {s: _bytes(planned, s) for s in planned.plan.sites if s.kind is Kind.STORED}
    small = {s: size for s, size in sizes.items() if size <= room}
    if not small:
        return planned
    keys = {key_of(s) for s in small}
    errors = sensitivity(job.prepared.model, [planned.plan], held_out, job.options.threads, only=keys)
    least = _SHARE * sum(map(errors.relative, keys))
    loud = [s for s in small if errors.relative(key_of(s)) > least]
    chosen: list[str] = []
    for site in sorted(loud, key=lambda s: errors.relative(key_of(s)) / max(small[s], 1), reverse=True):
        if small[site] <= room:
            room -= small[site]
            chosen += [node for node, _ in site.uses or ()]
    if not chosen:
        return planned
    wish = planned.wish
    weights = {**dict.fromkeys(chosen, FLOAT32), **wish.weights}
    return planned.again(replace(wish, weights=weights))


def _bytes(planned: Planned, site: Site) -> int:
    """What it takes more to keep a weight in float."""
    array = float_constant(planned.job.view.values[site.value])
    return 0 if array is None else array.nbytes - array.size * site.spec.qtype.bits // 8
