"""Kinds of models, by what is in their graphs, and the options that fit each goal: a row a kind.

The options follow docs/choosing-a-mode.md and the measurements in docs/targets.md.
"""

from __future__ import annotations

from dataclasses import dataclass

GOALS = ("speed", "size", "accuracy")
# Options of `qtool quantize`.
STATIC: tuple[str, ...] = ()
DYNAMIC = ("--mode", "dynamic")
STORED = ("--mode", "weight-only")
FOUR_BITS = ("--mode", "weight-only", "--bits", "4", "--prefer", "speed")
FEW_BITS = ("--mode", "weight-only", "--bits", "4")
CAREFUL = ("--min-sqnr", "35")


@dataclass(frozen=True)
class Architecture:
    """One kind of model.

    Args:
        name: for people.
        needs: features of its graph, all of them (graph/features.py). The first row that fits counts.
        speed, size, accuracy: options for each goal.
        without_samples: options where there are no samples to set ranges.
        watch: what goes wrong most often.
    """

    name: str
    needs: frozenset[str]
    speed: tuple[str, ...]
    size: tuple[str, ...]
    accuracy: tuple[str, ...]
    without_samples: tuple[str, ...]
    watch: str

    def options(self, goal: str, *, samples: bool) -> tuple[str, ...]:
        """Return the options for a goal; those without samples where `--mode static` would need some."""
        options: tuple[str, ...] = getattr(self, goal)
        return options if samples or "--mode" in options else self.without_samples


def _row(
    name: str,
    needs: str,
    speed: tuple[str, ...],
    size: tuple[str, ...],
    accuracy: tuple[str, ...],
    without_samples: tuple[str, ...],
    watch: str,
) -> Architecture:
    return Architecture(name, frozenset(needs.split()), speed, size, accuracy, without_samples, watch)


OUTLIERS = "a few activation columns set the scale: outlier columns stay in float by default"

ARCHITECTURES = (
    _row("language model", "tokens attention vocabulary", FOUR_BITS, FEW_BITS, STORED, STORED,
         "4 bits cost perplexity: judge by --metric perplexity; --target-bits gives sensitive layers more"),
    _row("text encoder", "tokens attention", STATIC, STORED, CAREFUL, DYNAMIC,
         OUTLIERS),
    _row("vision transformer", "attention conv", STATIC, STORED, CAREFUL, DYNAMIC,
         OUTLIERS),
    _row("transformer", "attention", STATIC, STORED, CAREFUL, DYNAMIC,
         OUTLIERS),
    _row("recurrent network", "recurrent", DYNAMIC, DYNAMIC, STORED, DYNAMIC,
         "errors add up over steps: judge on sequences as long as in use"),
    _row("detector", "conv boxes", STATIC, STORED, CAREFUL, STORED,
         "rows of boxes are matched before they are compared: look at agreement, not at the SQNR alone"),
    _row("image-to-image network", "conv upsampling", STATIC, STORED, CAREFUL, STORED,
         "errors are visible: aim at 40 dB, and look at the images"),
    _row("mobile convolutional network", "depthwise", STATIC, STORED, CAREFUL, STORED,
         "depthwise layers have few weights a channel: GPTQ and bias correction matter most here"),
    _row("convolutional network", "conv", STATIC, STORED, CAREFUL, STORED,
         "residual Adds and the first layer carry most of the error"),
    _row("multilayer perceptron", "product", STATIC, STORED, CAREFUL, DYNAMIC,
         "columns of different units set one scale: normalize the inputs"),
)  # fmt: skip
