"""Signatures of plans: digests of all that a measurement depends on. Equal ones are measured once."""

from __future__ import annotations

import hashlib

from qtool.plan.model import OBSERVED, WEIGHTS, Plan
from qtool.plan.predict import key_of
from qtool.plan.prepared import PreparedModel


def noise_signatures(plan: Plan, model: PreparedModel) -> dict[str, str]:
    """Return the key of each tensor that a plan quantizes -> a digest of all that its noise depends on."""
    signatures: dict[str, str] = {}
    for site in plan.sites:
        key = key_of(site)
        if key in signatures or not (site.kind in OBSERVED or site.kind in WEIGHTS):
            continue
        columns = plan.outlier_columns
        split = columns.get(site.value) if site.kind in OBSERVED else sorted(columns.items())
        parts: list[bytes] = [repr((key, site.kind, site.spec, split)).encode()]
        if site.qparams is not None:
            parts += [site.qparams.scale.tobytes(), site.qparams.zero_point.tobytes()]
        parts += [] if site.integers is None else [site.integers.tobytes()]
        signatures[key] = hashlib.sha256(b"".join(parts)).hexdigest()
    scaled = hashlib.sha256(repr(sorted(model.task.scaled.items())).encode()).hexdigest()
    signatures |= {name: name for name in plan.fp16.nodes if name not in signatures}
    return {key: f"{scaled} {own}" for key, own in signatures.items()}


def structure(plan: Plan) -> str:
    """Return a digest of everything that speed depends on: not the values of scales, integers and biases."""
    sites = [(s.value, s.kind, s.uses, s.spec) for s in plan.sites]
    columns = [(value, len(split.columns)) for value, split in plan.outlier_columns.items()]
    parts = (plan.forms, sites, columns, plan.fp16, plan.edits, plan.operators)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
