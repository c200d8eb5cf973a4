"""A survey of samples as one JSON document (schema qtool.data/1, described in docs/report.md)."""

from __future__ import annotations

import json
from dataclasses import asdict

from qtool import __version__
from qtool.commands.data import Survey
from qtool.report.serial import jsonable

SCHEMA = "qtool.data/1"


def to_json(found: Survey) -> str:
    """Indented JSON in ASCII; inf, which only masks hold, is the string "-inf"."""
    document = {"schema": SCHEMA, "version": __version__, **asdict(found)}
    return json.dumps(jsonable(document), indent=2, allow_nan=False)
