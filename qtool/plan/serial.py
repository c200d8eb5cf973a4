"""A plan as a JSON file: readable, diffable, exact to the bit.

The keys are the fields of `Plan` (qtool/serialize/). Reasons and values to observe of float16 are not
written: they serve calibration, which a plan in a file has behind it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qtool.plan.model import Fp16Assignment, Plan, Site
from qtool.serialize.json_format import JsonFormat

SCHEMA = "qtool.plan/9"
_DIGEST = "digest of the decisions"  # an entry beside the fields, which `replace` and == leave out


def digest(plan: Plan) -> str:
    """Return a sha256 of the decisions of a plan, for the model's metadata: not of reasons and timings.

    It is kept with the plan: that of a transformer takes as long as some inferences.
    """
    kept = vars(plan)
    if _DIGEST not in kept:
        kept[_DIGEST] = PLAN.digest(replace(plan, regions=(), skips=()))
    return str(kept[_DIGEST])


def _check(plan: Plan) -> None:
    """Check what types can't express.

    Raises:
        ValueError: a number that no plan of qtool has.
    """
    for site in plan.sites:
        _check_site(site)
    for name, scaled in plan.scaled.items():
        if any(math.frexp(factor)[0] != 0.5 for one in scaled for factor in one.factors):
            raise ValueError(f"scaled.{name}: factors that are not powers of two")
    for name, offsets in plan.corrections.items():
        if not np.isfinite(offsets).all():
            raise ValueError(f"corrections.{name}: values that are not finite")


def _check_site(site: Site) -> None:
    params, integers, qtype = site.qparams, site.integers, site.spec.qtype
    if params is not None:
        scale = params.scale
        if not (np.isfinite(scale).all() and (scale > 0).all() and params.zero_point.shape == scale.shape):
            raise ValueError(f"'{site.value}' has a scale that is not finite and positive")
    if integers is not None and (
        integers.dtype != qtype.dtype
        or qtype.qmin == qtype.qmax
        or ((integers < qtype.qmin) | (integers > qtype.qmax)).any()
    ):
        raise ValueError(f"'{site.value}' has integers that {qtype.name} does not have")


PLAN = JsonFormat(
    Plan,
    SCHEMA,
    "plan",
    hint="make it with --save-plan",
    largest=1 << 30,  # bytes: the scales of the blocks of billions of weights take less
    levels=2,
    check=_check,
    omitted={Plan: ("fp16_observed",), Fp16Assignment: ("reasons",)},
)
to_json = PLAN.to_json
from_json = PLAN.from_json
