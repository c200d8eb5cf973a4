"""What wins back accuracy that quantization lost, in the order in which it is tried."""

from __future__ import annotations

from dataclasses import dataclass

from qtool.tables.efforts import BALANCED, BEST, EFFORTS

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Recovery:
    """One technique. Each is kept only where the error at the outputs falls on the select set.

    Args:
        effort: from which one on it is tried unasked.
    """

    name: str
    summary: str
    effort: str = BALANCED

    def within(self, effort: str) -> bool:
        """Whether it is tried unasked at that effort."""
        order = list(EFFORTS)
        return order.index(effort) >= order.index(self.effort)


RECOVERIES: dict[str, Recovery] = {
    r.name: r
    for r in (
        Recovery("columns", "columns of an activation that set its scale stay in float beside the product"),
        Recovery("equalize", "channels between two layers are scaled to reach as far as each other"),
        Recovery("smooth", "what an activation's columns reach moves into weights, behind a norm", BEST),
        Recovery("awq", "columns of weights that matter most are scaled up, of 4 bits or fewer", BEST),
        Recovery("ranges", "each activation gets the range, of several methods', that errs least"),
        Recovery("keep-float", "small weights of float nodes that err most are not stored as integers"),
        Recovery("hqq", "scales of 4 bits or fewer by a norm that outliers weigh little in"),
        Recovery("gptq", "weights are rounded so that errors of one make up for those of another"),
        Recovery("adaround", "weights are rounded up or down as is learned, a layer at a time", BEST),
        Recovery("bias", "biases take from each channel what quantization adds to its mean"),
    )
}
