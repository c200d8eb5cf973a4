"""The recovery techniques, in the order in which they are tried."""

from __future__ import annotations

from dataclasses import dataclass

from qtool.tables.efforts import BALANCED, BEST, EFFORTS

AUTO, NONE = "auto", "none"
# The effort of a step that only its name asks for.
BY_NAME = ""


@dataclass(frozen=True)
class Recovery:
    """One technique. Each is kept only where the error at the outputs falls on the select set.

    Args:
        effort: the least --effort that tries it by default; BY_NAME: none does.
    """

    name: str
    summary: str
    effort: str = BALANCED

    def within(self, effort: str) -> bool:
        """Return whether it is tried by default at an effort."""
        order = list(EFFORTS)
        return self.effort != BY_NAME and order.index(effort) >= order.index(self.effort)


RECOVERIES: dict[str, Recovery] = {
    r.name: r
    for r in (
        Recovery("columns", "outlier columns of activations are multiplied in float beside the int8 product"),
        Recovery("wide", "16-bit activations, on a target that has them, where 8 bits lose much"),
        Recovery("equalize", "cross-layer equalization: balance the channel ranges of two layers"),
        Recovery(
            "smooth", "SmoothQuant: move activation outliers into the weights after a normalization", BEST
        ),
        Recovery("awq", "AWQ: scale up the most important weight columns, for 4 bits or fewer", BEST),
        Recovery("ranges", "range search: for each activation the estimator with the least error"),
        Recovery("keep-float", "keep the most sensitive small weights of float nodes in float"),
        Recovery("hqq", "HQQ: scales for 4 bits or fewer by a norm that is robust to outliers"),
        Recovery("gptq", "GPTQ: round weights so that their errors compensate for each other"),
        Recovery("adaround", "AdaRound: learn whether to round each weight up or down, layer by layer", BEST),
        Recovery("bias", "bias correction: remove the mean error of each channel"),
        Recovery(
            "finetune",
            "fine-tuning: train weights, scales and ranges on FP32's own outputs (needs torch; by name only)",
            BY_NAME,
        ),
    )
}
