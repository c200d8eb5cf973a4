"""The part of a plan that the nodes of a model do not show: scaled constants and outlier columns."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from qtool.errors import ModelError
from qtool.plan.model import OutlierColumns, Plan, Scaled

SCALED, COLUMNS = "qtool.scaled", "qtool.columns"


def hidden_metadata(plan: Plan) -> dict[str, str]:
    """Return the metadata that `read_hidden` reads back; empty for a plan without such parts."""
    metadata: dict[str, str] = {}
    if plan.scaled:
        exponents = {
            name: [[s.axis, np.log2(s.factors).astype(int).tolist()] for s in every]
            for name, every in plan.scaled.items()
        }
        metadata[SCALED] = json.dumps(exponents, separators=(",", ":"))
    if plan.outlier_columns:
        columns = {name: [list(o.columns), o.lo, o.hi] for name, o in plan.outlier_columns.items()}
        metadata[COLUMNS] = json.dumps(columns, separators=(",", ":"))
    return metadata


def read_hidden(
    metadata: Mapping[str, str], name: str
) -> tuple[dict[str, tuple[Scaled, ...]], dict[str, OutlierColumns]]:
    """Return the factors of scaled constants, and the outlier columns.

    Args:
        metadata: of a model that qtool wrote; other metadata has neither.
        name: of the model, for errors.

    Raises:
        ModelError: they can't be read.
    """
    try:
        scaled = {
            constant: tuple(
                Scaled(int(axis), tuple(float(2.0**e) for e in exponents)) for axis, exponents in rows
            )
            for constant, rows in json.loads(metadata.get(SCALED, "{}")).items()
        }
        columns = {
            value: OutlierColumns(tuple(int(c) for c in row), float(lo), float(hi))
            for value, (row, lo, hi) in json.loads(metadata.get(COLUMNS, "{}")).items()
        }
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ModelError(f"{name}: its metadata '{SCALED}' or '{COLUMNS}' can't be read") from error
    return scaled, columns
