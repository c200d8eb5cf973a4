"""The options of `qtool quantize` and `qtool tune` that say what the result must come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.grouped import under
from qtool.cli.quantities import BYTES
from qtool.tables.efforts import BALANCED, EFFORTS
from qtool.tables.recoveries import AUTO, RECOVERIES
from qtool.tables.targets import MEASURED, PROFILES

F = TypeVar("F", bound=Callable[..., Any])

_option = under("Budget and placement")

_OPTIONS = (
    _option(
        "--min-sqnr",
        type=float,
        metavar="DB",
        help="Least SQNR of the worst output: move the most sensitive layers back to float until the select "
        "set holds it, and write the fastest such model. Default: what the precision usually holds (--gate).",
    ),
    _option(
        "--min-speedup",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="X",
        help="Least speed against FP32: write the most accurate model at least this fast.",
    ),
    _option(
        "--max-size", type=BYTES, default=0, metavar="SIZE", help="Most bytes of the model, such as 25MB."
    ),
    _option(
        "--keep-failed", is_flag=True, help="Write the model though a gate failed; the exit code is still 1."
    ),
    _option(
        "--recover",
        default=AUTO,
        show_default=True,
        metavar="auto|none|LIST",
        help="Steps that recover accuracy. They need --calib; a step is kept where it lowers the error on "
        "the select set. Separate several with commas: "
        + "; ".join(f"{r.name}: {r.summary}" for r in RECOVERIES.values())
        + ".",
    ),
    _option(
        "--effort",
        type=click.Choice(list(EFFORTS)),
        default=BALANCED,
        show_default=True,
        help="; ".join(f"{e.name}: {e.summary}" for e in EFFORTS.values()) + ".",
    ),
    _option(
        "--profile",
        type=click.Choice(PROFILES),
        default=MEASURED,
        show_default=True,
        help="measured: this model's nodes are timed here, in float and in int8. table: times are looked up, "
        "nothing that is timed decides, and the result is the same on any machine.",
    ),
    _option(
        "--costs",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The table, from qtool profile. Default: one that comes with the target.",
    ),
)
# tune shows what every size comes to.
_SIZES = (
    _option(
        "--target-size",
        type=BYTES,
        default=0,
        metavar="SIZE",
        help="weight-only: 4 bits (or --bits 2) where that hurts least, and more where there is room.",
    ),
    _option(
        "--target-bits",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="BITS",
        help="weight-only: the same, with so many bits a weight on the mean, such as 4.5.",
    ),
)
BUDGET = tuple(
    "min_sqnr min_speedup max_size target_size target_bits keep_failed recover effort profile costs".split()
)


def budget_options(command: F) -> F:
    """All of the above."""
    return _with((*_OPTIONS, *_SIZES), command)


def tune_options(command: F) -> F:
    """Those that choose among points."""
    return _with(_OPTIONS, command)


def _with(options: Sequence[Callable[[F], F]], command: F) -> F:
    """In that order in the help."""
    for option in reversed(options):
        command = option(command)
    return command
