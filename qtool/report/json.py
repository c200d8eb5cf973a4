"""The report as one JSON document (schema qtool.report/1, described in docs/report.md)."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from qtool.report.model import SCHEMA, Report


def to_json(report: Report) -> str:
    """Indented JSON; inf and nan are the strings "inf", "-inf" and "nan", which JSON numbers can't be."""
    document: dict[str, Any] = {"schema": SCHEMA, **asdict(report)}
    document["size_ratio"] = report.size_ratio
    document["speedup"] = report.speedup
    if report.comparison is not None:
        document["comparison"]["sqnr"] = report.comparison.sqnr
        if report.comparison.accuracy is not None:
            document["comparison"]["accuracy"]["drop"] = report.comparison.accuracy.drop
    if report.race is not None:
        document["race"] = {
            "threads": report.race.threads,
            "rounds": report.race.rounds,
            "milliseconds": {name: report.race.milliseconds(name) for name in report.race.seconds},
            "speedup": {
                against: asdict(report.race.speedup("quantized", against))
                for against in report.race.seconds
                if against != "quantized"
            },
        }
    document["failed"] = [g.gate.text for g in report.failed]
    return json.dumps(jsonable(document), indent=2, ensure_ascii=False, allow_nan=False)


def jsonable(value: Any) -> Any:
    """Without what JSON lacks: numbers that are not finite, keys that are no text."""
    if isinstance(value, dict):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
