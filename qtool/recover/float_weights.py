"""Float weights: small weights of float nodes with large errors are not stored as integers."""

from __future__ import annotations

from dataclasses import replace

from qtool.evaluate.evaluator import Evaluator
from qtool.graph.view import float_constant
from qtool.plan.candidate import Candidate
from qtool.plan.model import Kind, Site
from qtool.plan.predict import key_of
from qtool.runtime.heartbeat import StepProgress
from qtool.tables.forms import Form
from qtool.tables.qtypes import FLOAT32

# The bytes that may be added, as a share of the model's.
_BYTES = 0.02
# Weights with less than this share of the noise of all such weights stay integers.
_SHARE = 0.02


def keep_float_weights(candidate: Candidate, evaluator: Evaluator, progress: StepProgress) -> Candidate:
    """Return the candidate with some weights of float nodes in float: those with the most noise per byte.

    The file grows by 2% at most. Modes that quantize only weights are left unchanged.
    """
    model = candidate.model
    if evaluator.select is None or model.scheme.form not in (Form.INT8, Form.DYNAMIC):
        return candidate
    room = _BYTES * model.source.size
    sizes = {s: _bytes(candidate, s) for s in candidate.plan.sites if s.kind is Kind.STORED}
    small = {s: size for s, size in sizes.items() if size <= room}
    if not small:
        return candidate
    keys = {key_of(s) for s in small}
    errors = evaluator.errors_of(candidate, keys=keys)
    least = _SHARE * sum(map(errors.relative, keys))
    loud = [s for s in small if errors.relative(key_of(s)) > least]
    chosen: list[str] = []
    for site in sorted(loud, key=lambda s: errors.relative(key_of(s)) / max(small[s], 1), reverse=True):
        if small[site] <= room:
            room -= small[site]
            chosen += [node for node, _ in site.uses or ()]
    if not chosen:
        return candidate
    before = candidate.assignment
    types = {**before.weight_types, **dict.fromkeys(chosen, FLOAT32), **model.constraints.weight_types}
    return candidate.changed(assignment=replace(before, weight_types=types))


def _bytes(candidate: Candidate, site: Site) -> int:
    """The bytes that a weight takes in float, less those as integers."""
    array = float_constant(candidate.model.view.values[site.value])
    return 0 if array is None else array.nbytes - array.size * site.spec.qtype.bits // 8
