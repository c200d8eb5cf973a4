"""An inspection as one JSON document (schema qtool.inspection/1, described in docs/report.md)."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from qtool.graph.inspection.model import Difference, Inspection

SCHEMA = "qtool.inspection/1"


def to_json(found: Inspection | Difference) -> str:
    """Indented JSON in ASCII: one model, or two and what changed; no number in it that JSON lacks."""
    models = [found.before, found.after] if isinstance(found, Difference) else [found]
    document: dict[str, Any] = {"schema": SCHEMA, "models": [_inspection(m) for m in models]}
    document["difference"] = _difference(found) if isinstance(found, Difference) else None
    return json.dumps(document, indent=2, allow_nan=False)


def _inspection(found: Inspection) -> dict[str, Any]:
    return {
        **asdict(found),
        "nodes": found.nodes,
        "computes": found.computes,
        "stored": found.stored,
        "parameters": found.parameters,
        "quantized_share": found.quantized_share,
        "half_share": found.half_share,
        "recipe": found.recipe,
    }


def _difference(found: Difference) -> dict[str, Any]:
    """What changed; the models themselves are beside it."""
    changes = {k: v for k, v in asdict(found).items() if k not in ("before", "after")}
    return {
        "identical": found.identical,
        "size_ratio": found.size_ratio,
        "ops_added": found.ops_added,
        "ops_removed": found.ops_removed,
        **changes,
    }
