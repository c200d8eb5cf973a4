"""The JSON Schema of the report, from its dataclasses: `python -m qtool.report.schema` prints it.

docs/report.schema.json holds what it prints.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from qtool.report.json import DERIVED
from qtool.report.model import COMMANDS, SCHEMA, Report
from qtool.serialize.json_format import NOT_FINITE

_NUMBER = {
    "description": "A number; as a string where JSON has none.",
    "anyOf": [{"type": "number"}, {"enum": list(NOT_FINITE)}],
}
_SIMPLE: dict[Any, dict[str, Any]] = {
    float: {"$ref": "#/$defs/number"},
    int: {"type": "integer", "minimum": 0},
    bool: {"type": "boolean"},
    str: {"type": "string"},
}


def report_schema() -> dict[str, Any]:
    """JSON Schema, draft 2020-12: what `to_json` writes and `from_json` reads."""
    definitions: dict[str, Any] = {"number": _NUMBER}
    body = _object(Report, definitions)
    body["properties"] = {"schema": {"const": SCHEMA}, **body["properties"]}
    body["properties"]["command"] = {"enum": list(COMMANDS)}
    body["required"].insert(0, "schema")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:" + SCHEMA.replace(".", ":").replace("/", ":"),
        "title": f"A report of qtool ({SCHEMA})",
        **body,
        "$defs": definitions,
    }


@cache
def kinds_of(kind: type) -> dict[str, Any]:
    """Return field -> type of a dataclass, in the order of the document."""
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)}


def _object(kind: type, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a dataclass; of those inside, in `definitions`."""
    summary, helps = _documented(kind)
    derived = DERIVED.get(kind, {})
    kinds = kinds_of(kind) | {name: d.kind for name, d in derived.items()}
    helps |= {name: d.help for name, d in derived.items()}
    properties = {}
    for name, one in kinds.items():
        properties[name] = _of(one, definitions)
        if name in helps:
            properties[name] = {"description": helps[name], **properties[name]}
    return {
        "description": summary,
        "type": "object",
        "properties": properties,
        "required": list(kinds),
        "additionalProperties": False,
    }


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        name = typing.cast(type, kind).__name__
        if name not in definitions:
            definitions[name] = {}  # its place, before those inside
            definitions[name] = _object(typing.cast(type, kind), definitions)
        return {"$ref": f"#/$defs/{name}"}
    if origin is types.UnionType:
        (inner,) = (a for a in arguments if a is not types.NoneType)
        return {"anyOf": [_of(inner, definitions), {"type": "null"}]}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _of(arguments[0], definitions)}
    if origin is tuple:
        items = [_of(a, definitions) for a in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (dict, Mapping):
        return {"type": "object", "additionalProperties": _of(arguments[1], definitions)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"enum": [one.value for one in kind]}
    return dict(_SIMPLE[kind])


def _documented(kind: type) -> tuple[str, dict[str, str]]:
    """The first paragraph of a class' docstring, and what its Args say of each field."""
    summary, _, arguments = (inspect.getdoc(kind) or "").partition("\n\nArgs:\n")
    helps: dict[str, str] = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {6,}.*)*)", arguments, re.MULTILINE):
        helps |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return " ".join(summary.split("\n\n")[0].split()), helps


if __name__ == "__main__":
    print(json.dumps(report_schema(), indent=2, ensure_ascii=False))
