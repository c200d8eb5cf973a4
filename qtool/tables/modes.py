"""The modes a user can ask for: a row a mode."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """One way to quantize.

    Args:
        needs_calibration: activation ranges come from samples.
        floor_db: SQNR below which the report warns.
        storage_floor_db: a float weight is stored as int8 only if its own SQNR stays above this.
        storage_min_elements: smaller weights are not worth two nodes.
        least_typical_steps: an activation whose typical magnitude is below this many quantization steps
            is all outliers to the grid, and who suffers from that stays in float (plan/unfit.py).
    """

    name: str
    summary: str
    needs_calibration: bool
    floor_db: float
    storage_floor_db: float
    storage_min_elements: int
    least_typical_steps: float


MODES: dict[str, Mode] = {
    m.name: m
    for m in (
        Mode(
            "static",
            "int8 activations and weights, with ranges from calibration samples",
            needs_calibration=True,
            floor_db=20.0,
            storage_floor_db=35.0,
            storage_min_elements=1024,
            least_typical_steps=0.88,
        ),
    )
}
