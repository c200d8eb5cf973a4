"""A bench as one JSON document (schema qtool.bench/1, described in docs/report.md)."""

from __future__ import annotations

import json
from dataclasses import asdict

from qtool.commands.bench import Bench
from qtool.report.serial import jsonable

SCHEMA = "qtool.bench/1"


def to_json(found: Bench) -> str:
    """Indented JSON in ASCII; what too few rounds leave open is the string "inf"."""
    document = {"schema": SCHEMA, **asdict(found)}
    document["failed"] = [f"{g.model}: {g.result.gate.text}" for g in found.failed]
    return json.dumps(jsonable(document), indent=2, allow_nan=False)
