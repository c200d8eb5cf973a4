"""The options of `qtool quantize` and `qtool tune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from qtool.cli.common_options import JUDGING, gates_of, runtime_option
from qtool.cli.help import under
from qtool.cli.source_options import NAMES as SOURCE_NAMES
from qtool.cli.source_options import reading_of, source_help
from qtool.cli.types import BYTES, OUTPUT, SRC, ListOfChoices
from qtool.plan.scheme import (
    ACTIVATION_TYPES,
    BLOCKS,
    FORMATS,
    IO_TYPES,
    LEVELS,
    PRECISIONS,
    PREFERENCES,
    WEIGHT_TYPES,
)
from qtool.tables.efforts import BALANCED, EFFORTS
from qtool.tables.judging import USUAL
from qtool.tables.methods import METHODS
from qtool.tables.modes import MODES, WEIGHT_BITS
from qtool.tables.recoveries import AUTO, RECOVERIES
from qtool.tables.targets import AUTO as AUTO_TARGET
from qtool.tables.targets import BEST, MEASURED, TARGETS, TIMINGS

if TYPE_CHECKING:
    from qtool.options import Options
    from qtool.plan.model import Plan

F = TypeVar("F", bound=Callable[..., Any])


def _rows(table: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: {row.summary}" for name, row in table.items())


_files = under("Model and samples")
_nodes = under("What to quantize")
_goal = under("Accuracy, speed and size")
_plan = under("What to quantize")
_type = under("Types and forms", rare=True)

_FILES = (
    _files(
        "--calib",
        type=SRC,
        help=source_help("Samples that set the ranges") + " none: rough ranges, from the model alone.",
        brief="Samples that set the ranges: a folder of .npz, images, ..; .csv; file.py:function; random:N.",
    ),
    _files(
        "--data",
        type=SRC,
        help="Samples for the verdict and the gates, and for nothing else. Default: every fourth sample "
        "of --calib, which then sets no range and makes no choice.",
        brief="Samples for the verdict and the gates. Default: a fourth of --calib.",
    ),
    _files(
        "--ranges",
        type=click.Path(path_type=Path),
        metavar="FILE",
        rare=True,
        help="Ranges from qtool calibrate. --calib then only makes choices; without --calib, steps that need "
        "samples are skipped. Add --data to judge the result.",
    ),
    _files("--force", is_flag=True, help="Replace an existing output, plan or report."),
)
_NODES = (
    _nodes(
        "--mode",
        type=click.Choice(list(MODES)),
        metavar="MODE",
        default="static",
        show_default=True,
        help=_rows(MODES) + ".",
        brief="static: int8 with ranges from --calib; dynamic: int8 with ranges found at run time; "
        "weight-only: a smaller file; fp16.  [default: static]",
    ),
    _nodes(
        "--target",
        type=ListOfChoices([AUTO_TARGET, BEST, *TARGETS]),
        metavar="TARGET[,TARGET]",
        default=AUTO_TARGET,
        show_default=True,
        help="auto: cpu, cpu-avx2 or arm64, by this machine's CPU alone; best: those of this CPU whose "
        f"runtimes are installed, raced against each other, as several with commas are; {_rows(TARGETS)}.",
        brief="cpu: has VNNI; cpu-avx2: has none; openvino; generic: any runtime; best: race what is "
        "installed.  [default: auto, by this CPU]",
    ),
    _nodes(
        "--bits",
        type=click.Choice([str(b) for b in WEIGHT_BITS]),
        default="8",
        show_default=True,
        callback=lambda context, option, value: int(value),
        help="weight-only: bits of a weight.",
    ),
    _nodes(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        brief="Keep in float: a node name, glob or op:Type.",
        help="Keep in float: a node name, a glob, or op:Type. Repeatable.",
    ),
    _nodes(
        "--include",
        multiple=True,
        metavar="PATTERN",
        rare=True,
        help="Quantize nodes that the target would leave in float; wins over --exclude. Repeatable.",
    ),
    _nodes(
        "--set",
        "sets",
        multiple=True,
        metavar="PATTERN=PRECISION",
        rare=True,
        help=f"Set the precision of nodes: {', '.join(PRECISIONS)}. If several match, the last one wins; "
        "all take precedence over --include and --exclude. Repeatable.",
    ),
    _nodes(
        "--requantize",
        is_flag=True,
        rare=True,
        help="Turn a quantized model back to float first and set new scales. Default: static mode keeps its "
        "scales, other modes leave quantized nodes as they are.",
    ),
    _nodes(
        "--explain",
        rare=True,
        multiple=True,
        metavar="PATTERN",
        help="Report the measurements and the reason behind these nodes' precision: a node name, a glob, or "
        "op:Type. Repeatable.",
        brief="Report why these nodes are in int8 or in float. Repeatable.",
    ),
    _nodes(
        "--require-quantized", is_flag=True, rare=True, help="Exit 1 when no node of the result is quantized."
    ),
)
_GOALS = (
    _goal(
        "--min-sqnr",
        type=float,
        metavar="DB",
        help="Minimum SQNR of the worst output (20 dB is 10% error, 30 dB 3%, 40 dB 1%): move the most "
        "sensitive layers back to float until the select set holds it, and write the fastest such model. "
        "Default: the usual SQNR of the precision (--gate).",
        brief="Minimum SQNR: 20 dB is 10% error, 30 dB 3%, 40 dB 1%. Sensitive layers go back to float "
        "until it holds. Default: 20 (static).",
    ),
    _goal(
        "--min-speedup",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="X",
        help="Minimum speed as a multiple of FP32: write the most accurate model at least this fast.",
        brief="Minimum speed as a multiple of FP32: write the most accurate such model.",
    ),
    _goal(
        "--max-size",
        rare=True,
        type=BYTES,
        default=0,
        metavar="SIZE",
        help="Maximum size of the model, such as 25MB.",
    ),
    _goal(
        "--keep-failed",
        is_flag=True,
        rare=True,
        help="Write the model even if a gate fails; the exit code is still 1.",
    ),
    _goal(
        "--allow-float",
        is_flag=True,
        rare=True,
        help="Leave nodes in float that are not faster in int8 here, also with options such as --per-tensor, "
        "--format or --include. Default: these options settle what is quantized.",
    ),
    _goal(
        "--recover",
        default=AUTO,
        show_default=True,
        metavar="auto|none|LIST",
        rare=True,
        help="Steps that recover accuracy. They need --calib; a step is kept where it lowers the error on "
        f"the select set. Separate several with commas: {_rows(RECOVERIES)}.",
    ),
    _goal(
        "--effort",
        type=click.Choice(list(EFFORTS)),
        metavar="EFFORT",
        default=BALANCED,
        show_default=True,
        help=_rows(EFFORTS) + ".",
        brief="Search effort: fast, balanced or best.  [default: balanced]",
    ),
    _goal(
        "--time-budget",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="SECONDS",
        rare=True,
        help="Try nothing new after this long, and write the best result so far; it then depends on the "
        "machine. Default: no limit.",
    ),
    _goal(
        "--timing",
        type=click.Choice(TIMINGS),
        default=MEASURED,
        show_default=True,
        rare=True,
        help="measured: time this model's nodes on this machine, in float and in int8. table: read the times "
        "from --costs; nothing is timed, and the result is the same on any machine.",
    ),
    _goal(
        "--costs",
        type=click.Path(path_type=Path),
        metavar="FILE",
        rare=True,
        help="The cost table, from qtool profile. Default: the table of the target.",
    ),
)
_SIZES = (
    _goal(
        "--target-size",
        type=BYTES,
        default=0,
        metavar="SIZE",
        rare=True,
        help="weight-only, static: size of the model. Weights that tolerate it get 4 bits (2 with --bits 2, "
        "--weights int2 or --levels); the others get as many as fit.",
    ),
    _goal(
        "--target-bits",
        type=click.FloatRange(min=0),
        default=0.0,
        metavar="BITS",
        rare=True,
        help="weight-only, static: the same, as mean bits per weight, such as 4.5.",
    ),
)
_TYPES = (
    _type(
        "--levels",
        type=click.Choice(list(LEVELS)),
        callback=lambda context, option, value: value or "",
        help="Weights of 2 bits, static or weight-only: ternary ones are -1, 0 or 1 times a scale, binary "
        "ones -1 or 1. Both are stored in 2 bits. Default: all four values.",
    ),
    _type(
        "--block",
        type=click.Choice([str(b) for b in BLOCKS]),
        callback=lambda context, option, value: int(value or 0),
        help="weight-only: number of values that share a scale. Default: 32 for 4 bits, 64 for 2; for 8 bits "
        "a channel, or fewer where the weight's accuracy needs it.",
    ),
    _type(
        "--prefer",
        type=click.Choice(PREFERENCES),
        default="size",
        show_default=True,
        help="weight-only: size stores weights in fewer bits and computes in float, at FP32 speed; speed "
        "computes on the packed weights (MatMulNBits) where that is faster.",
    ),
    _type(
        "--format",
        type=click.Choice(FORMATS),
        default="qdq",
        show_default=True,
        help="static: QuantizeLinear/DequantizeLinear pairs, or integer operators (QLinearConv ..).",
    ),
    _type(
        "--timestep",
        metavar="INPUT",
        default="",
        help="static: the input that tells the step of a model that is run step after step (diffusion): each "
        "bucket of steps has ranges of its own.",
    ),
    _type(
        "--buckets",
        type=click.IntRange(2),
        metavar="N",
        default=8,
        show_default=True,
        help="static: the most buckets of steps, with --timestep.",
    ),
    _type(
        "--weights",
        type=click.Choice([t.name for t in WEIGHT_TYPES]),
        show_default="the target's",
        callback=lambda context, option, value: value or "",
        help="static: the type of weights.",
    ),
    _type(
        "--acts",
        type=click.Choice([t.name for t in ACTIVATION_TYPES]),
        show_default="the target's",
        callback=lambda context, option, value: value or "",
        help="static: the type of activations.",
    ),
    _type(
        "--method",
        type=click.Choice(list(METHODS)),
        default="minmax",
        show_default=True,
        help=f"static: the range estimator. {_rows(METHODS)}.",
    ),
    _type("--symmetric", is_flag=True, help="static: activation ranges symmetric about zero."),
    _type("--per-tensor", is_flag=True, help="static: one scale per weight instead of one per channel."),
    _type(
        "--io",
        type=click.Choice(IO_TYPES),
        default="float",
        show_default=True,
        help="The type of the model's float inputs and outputs: uint8 or int8 (static: scale and zero point "
        "are in the metadata), float16 (fp16).",
    ),
    _type(
        "--input-range",
        multiple=True,
        metavar="[INPUT=]LOW,HIGH",
        help="static with --calib none: the range of the model's float inputs. Repeatable.",
    ),
)
_PLAN = (
    _plan(
        "--save-plan",
        rare=True,
        type=OUTPUT,
        metavar="FILE",
        help="Write the plan: every scale and every decision, as JSON.",
    ),
)
_RUNTIME = (runtime_option("Runtime in which plans are raced and judged", "that of the target"),)
_NAMES = (
    "mode", "target", "runtime", "calib", "calib_format", "ranges", "data", "data_format", *JUDGING,
    "exclude", "include", "explain", "require_quantized", "threads", "force", "checkpoint", "resume",
    "bits", "block", "prefer", "format", "weights", "acts", "method", "symmetric", "per_tensor", "io",
    "levels", "timestep", "buckets", "requantize", "input_range", "sets", "min_sqnr", "min_speedup",
    "max_size",
    "target_size", "target_bits", "keep_failed", "allow_float", "recover", "effort", "time_budget",
    "timing", "costs", "jobs", "ray",
)  # fmt: skip

# The parameters that `options_of` reads.
JOB = frozenset({*_NAMES, *SOURCE_NAMES, "gate", "gates", "fail_if"})


def quantize_options(command: F) -> F:
    """Declare the options of quantize."""
    return _declare((*_FILES, *_NODES, *_GOALS, *_SIZES, *_TYPES, *_PLAN, *_RUNTIME), command)


def tune_options(command: F) -> F:
    """Declare the options of tune: those of quantize but the sizes to aim at, since it shows every size."""
    return _declare((*_FILES, *_NODES, *_GOALS, *_TYPES, *_PLAN, *_RUNTIME), command)


def _declare(options: Sequence[Callable[[F], F]], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def options_of(values: Mapping[str, Any], plan: Plan | None = None) -> Options:
    """Return the Options of a command.

    Args:
        values: the values of its options; Options that it lacks keep their defaults.
        plan: the plan to replay.
    """
    from qtool.options import Options

    return Options(
        **{name: values[name] for name in _NAMES if name in values},
        gate=values["gate"] or USUAL,
        fail_if=gates_of(values),
        reading=reading_of(values),
        plan=plan,
    )
