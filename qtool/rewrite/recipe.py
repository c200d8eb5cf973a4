"""What made a model, in its metadata, for whoever finds it later."""

from __future__ import annotations

import json

import onnx_ir as ir

from qtool import __version__
from qtool.plan.model import Plan
from qtool.plan.serial import digest
from qtool.rewrite.write import rewrite


def written(model: ir.Model, plan: Plan) -> ir.Model:
    """The model that a plan makes of a prepared one, as it is put in a file: with its recipe."""
    made = rewrite(model, plan)
    made.metadata_props.update(recipe(plan))
    return made


def recipe(plan: Plan) -> dict[str, str]:
    """What made the model: no times, no paths, no machine.

    All of it is in the plan, so that a replay writes the same.
    """
    return {
        "qtool.version": __version__,
        "qtool.mode": plan.mode,
        "qtool.target": plan.target,
        "qtool.options": json.dumps(
            {"exclude": plan.exclude, "include": plan.include, "set": plan.sets, **plan.choices.made()}
        ),
        "qtool.source_sha256": plan.model_sha256,
        "qtool.calibration_sha256": plan.calibration_sha256,
        "qtool.plan_sha256": digest(plan),
    }
