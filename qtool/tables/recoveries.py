"""What wins back accuracy that quantization lost, in the order in which it is tried."""

from __future__ import annotations

from dataclasses import dataclass

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Recovery:
    """One technique. Each is kept only where the error at the outputs falls, on held-out samples."""

    name: str
    summary: str


RECOVERIES: dict[str, Recovery] = {
    r.name: r
    for r in (
        Recovery("columns", "columns of an activation that set its scale stay in float beside the product"),
        Recovery("gptq", "weights are rounded so that errors of one make up for those of another"),
    )
}
