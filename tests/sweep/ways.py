"""The ways in which each case is quantized: every mode, with the tables as they are and with all that can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from qtool.commands import verdict
from qtool.evaluate import evaluator
from qtool.evaluate.latency import Race
from qtool.tables.modes import MODES
from qtool.tables.ops import OPS
from qtool.tables.qtypes import INT8_REDUCED
from qtool.tables.targets import TARGETS
from tests.exact import exact
from tests.sweep.noise import Grid


@dataclass(frozen=True)
class Way:
    """A way to quantize a model, and the distance from FP32 that it may have.

    Args:
        floor: SQNR in dB that the mode holds; below it, noise on `grid` decides.
        grid: how finely values are kept.
        eager: quantize whatever has a form, however small and slow.
    """

    mode: str
    floor: float
    grid: Grid
    target: str = "cpu"
    eager: bool = False
    choices: Mapping[str, Any] = field(default_factory=dict)

    def options(self, **more: Any) -> dict[str, Any]:
        """Of qtool.Options. What is tested is what a form does, however large its error, and however slow: no
        gate takes nodes back to float, and nothing is timed.
        """
        settled = {"threads": 1, "gate": "none", "timing": "table"}
        return {"mode": self.mode, "target": self.target, **settled, **self.choices, **more}


_ACTIVATIONS = Grid(bits=8)
_SEVEN = Grid(bits=7)  # symmetric about 0 keeps half of its steps for the other sign
_WEIGHTS = Grid(bits=7, computed=False)
_NIBBLES = Grid(bits=3, computed=False)
_PAIRS = Grid(bits=1, computed=False)
_FLOAT16 = Grid(relative=2.0**-10, least=2.0**-24)


def _way(mode: str, grid: Grid, floor: float | None = None, **other: Any) -> Way:
    return Way(mode, MODES[mode].floor_db if floor is None else floor, grid, **other)


WAYS: dict[str, Way] = {
    "static": _way("static", _ACTIVATIONS),
    "static-eager": _way("static", _ACTIVATIONS, eager=True),
    "static-generic": _way("static", _ACTIVATIONS, eager=True, target="generic"),
    "static-qoperator": _way("static", _SEVEN, eager=True, choices={"format": "qoperator", "acts": "int8", "symmetric": True}),
    "static-io": _way("static", _ACTIVATIONS, eager=True, choices={"io": "uint8"}),
    "dynamic": _way("dynamic", _ACTIVATIONS),
    "dynamic-eager": _way("dynamic", _ACTIVATIONS, eager=True),
    "dynamic-generic": _way("dynamic", _ACTIVATIONS, eager=True, target="generic"),
    "weight-only": _way("weight-only", _WEIGHTS),
    "weight-only-eager": _way("weight-only", _WEIGHTS, eager=True),
    "weight-only-4": _way("weight-only", _NIBBLES, 10.0, eager=True, target="generic", choices={"bits": 4}),
    "weight-only-speed": _way("weight-only", _NIBBLES, 10.0, eager=True, choices={"bits": 4, "prefer": "speed"}),
    "weight-only-2": _way("weight-only", _PAIRS, 0.0, eager=True, target="generic", choices={"bits": 2}),
    "weight-only-2-speed": _way("weight-only", _PAIRS, 0.0, eager=True, choices={"bits": 2, "prefer": "speed"}),
    "fp16": _way("fp16", _FLOAT16),
    "fp16-io": _way("fp16", _FLOAT16, choices={"io": "float16"}),
}  # fmt: skip


def settle_speed(patch: pytest.MonkeyPatch) -> None:
    """Int8 always wins its race, at once: tiny models are faster in float, and this is about their results."""

    def won(models: Sequence[str], *args: Any, **kwargs: Any) -> Race:
        floats = (evaluator.ORIGINAL, evaluator.PREPARED)
        return Race(1, {n: (2.0 if n in floats else 1.0,) * 9 for n in models})

    for module in (evaluator, verdict):
        patch.setattr(module, "race_models", won)


def avoid_saturation(patch: pytest.MonkeyPatch) -> None:
    """Let int8 weights have 7 bits where this CPU's int8 products saturate: the writing is judged, not the CPU."""
    if not exact():
        for name, target in TARGETS.items():
            patch.setitem(TARGETS, name, replace(target, weight=INT8_REDUCED))


def make_eager(patch: pytest.MonkeyPatch) -> None:
    """Let no weight be too small. That no op is too slow, `include` says."""
    for name, mode in MODES.items():
        patch.setitem(MODES, name, replace(mode, storage_min_elements=1, storage_floor_db=20.0))
    for name, rule in OPS.items():
        patch.setitem(OPS, name, replace(rule, storage_min_elements=0))
    for name, target in TARGETS.items():
        small = {f: replace(p, min_weight=0, min_vector_weight=0) for f, p in target.forms.items()}
        patch.setitem(TARGETS, name, replace(target, forms=small))
