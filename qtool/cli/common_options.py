"""Options of several commands: the form of the output, and gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.help import under
from qtool.tables.judging import AUTO, NONE, USUAL

F = TypeVar("F", bound=Callable[..., Any])

_output = under("Output and running")


def output_options(command: F) -> F:
    """Declare --json, -q, -v, --threads."""
    for option in (
        _output(
            "--threads",
            type=click.IntRange(min=0),
            metavar="N",
            default=0,
            help="Threads of onnxruntime. Default: its own choice; one while it is timed.",
        ),
        _output(
            "-v",
            "--verbose",
            is_flag=True,
            help="Show all measures, and each node left in float with its reason.",
        ),
        _output(
            "-q",
            "--quiet",
            is_flag=True,
            help="No table and no progress: errors, warnings and failed gates only.",
        ),
        _output("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables."),
    ):
        command = option(command)
    return command


_gate = under("Accuracy, speed and size")

gates_option: Callable[[F], F] = _gate(
    "--gates",
    type=click.Path(path_type=Path),
    metavar="FILE",
    rare=True,
    help="A file of gates, one --fail-if expression per line.",
)


def gate_options(command: F) -> F:
    """Declare --fail-if, --gates, --gate, --labels, --metric, --atol, --rtol."""
    for option in (
        _gate(
            "--rtol",
            type=click.FloatRange(min=0),
            default=1e-2,
            show_default=True,
            rare=True,
            help="The metric mismatch counts values with |a - b| > atol + rtol |a|.",
        ),
        _gate(
            "--atol",
            type=click.FloatRange(min=0),
            default=1e-3,
            show_default=True,
            rare=True,
            help="The absolute tolerance of the metric mismatch.",
        ),
        _gate(
            "--metric",
            "metrics",
            multiple=True,
            metavar="FILE.py:FUNCTION",
            rare=True,
            help="A metric of your own: a function of a sample's FP32 and quantized outputs (dicts of "
            "arrays) that returns a number; --fail-if 'FUNCTION<0.9' judges the mean. Repeatable.",
        ),
        _gate(
            "--gate",
            type=click.Choice([NONE, USUAL, AUTO]),
            show_default="usual where a model is quantized, none where two are compared",
            rare=True,
            help="auto: fail below the usual SQNR of the precision: static 20 dB, dynamic 12, 4-bit weights "
            "10, fp16 50. usual: the same, where there are samples to judge on. none: no default gate.",
        ),
        gates_option,
        _gate(
            "--labels",
            type=click.Path(path_type=Path),
            rare=True,
            help="The true classes, for both models' accuracy: JSON or .csv, sample file name -> class.",
        ),
        _gate(
            "--fail-if",
            multiple=True,
            metavar="EXPR",
            brief="Exit 1 when EXPR holds: 'sqnr<20', 'top1<0.99', 'speedup<1.2', .. Repeatable.",
            help="Exit 1 when EXPR holds, or can't be judged: [OUTPUT:]METRIC<NUMBER, or >. Metrics: sqnr, "
            "sqnr_worst, sqnr_centred, cosine, rel_l2, max_error, mean_error, p99_error, mismatch, kl, top1, "
            "top5, unequal, nonfinite, accuracy, accuracy_drop (with --labels), speedup, size (quantized / "
            "FP32), quantized (nodes). Repeatable.",
        ),
    ):
        command = option(command)
    return command


JUDGING = ("labels", "metrics", "atol", "rtol")


def gates_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the gates of --fail-if and --gates."""
    if values["gates"] is None:
        return tuple(values["fail_if"])
    from qtool.evaluate.gates import read_gates

    return (*values["fail_if"], *read_gates(values["gates"]))
