"""Options of several commands: the form of the output, and gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.help import under
from qtool.tables.judging import AUTO, NONE, TASK, TASKS, USUAL, Task
from qtool.tables.runtimes import RUNTIMES
from qtool.tables.task_metrics import TASK_METRICS

F = TypeVar("F", bound=Callable[..., Any])

_output = under("Output and running")


def _listed() -> str:
    rows = []
    for name, row in RUNTIMES.items():
        able = f" ({name}:{', '.join(row.precisions)})" if len(row.precisions) > 1 else ""
        rows.append(f"{name}: {row.summary}{able}")
    return "; ".join(rows)


def runtime_option(what: str, usual: str, *, multiple: bool = False) -> Callable[[F], F]:
    """Declare --runtime.

    Args:
        what: what the runtime does, for the help.
        usual: the default, in words.
        multiple: it is repeatable.
    """
    option: Callable[[F], F] = _output(
        "--runtime",
        metavar="NAME[:PRECISION]",
        rare=True,
        multiple=multiple,
        default=() if multiple else "",
        help=f"{what}. {_listed()}. Default: {usual}.",
    )
    return option


def output_options(command: F) -> F:
    """Declare --json, -q, -v, --threads."""
    for option in (
        _output(
            "--threads",
            type=click.IntRange(min=0),
            metavar="N",
            default=0,
            help="Threads of onnxruntime. Default: the cores that this process may use; 1 for timing.",
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


def worker_options(what: str) -> Callable[[F], F]:
    """Declare -j and --ray.

    Args:
        what: the work of each, as a sentence without its full stop.
    """

    def declare(command: F) -> F:
        command = _output(
            "--ray",
            metavar="ADDRESS",
            default="",
            rare=True,
            help="Workers on a Ray cluster: auto for that of this machine, or HOST:PORT. Each machine must "
            "see the current folder and all files of the command. Default: processes on this machine.",
        )(command)
        return _output(
            "-j",
            "--jobs",
            type=click.IntRange(min=1),
            callback=lambda context, option, value: value or 0,
            metavar="N",
            brief="Number of workers.  [default: 1]",
            help=f"Number of workers. {what}. Default: 1 worker; with --ray the CPUs of the cluster.",
        )(command)

    return declare


def _rows(tasks: Mapping[str, Task]) -> str:
    return "; ".join(f"{name}: {row.summary}" for name, row in tasks.items())


_gate = under("Accuracy, speed and size")

gates_option: Callable[[F], F] = _gate(
    "--gates",
    type=click.Path(path_type=Path),
    metavar="FILE",
    rare=True,
    help="A file of gates, one --fail-if expression per line.",
)


def gate_options(command: F) -> F:
    """Declare the gates, --task, --labels, --metric, and the tolerances."""
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
            metavar="NAME",
            rare=True,
            help=f"A metric of the model's task, of both models against --labels: {', '.join(TASK_METRICS)}; "
            "NAME:OPTION=VALUE,.. sets its options (docs/metrics.md). Or a metric of your own, "
            "FILE.py:FUNCTION: a function of a sample's FP32 and quantized outputs (dicts of arrays) that "
            "returns a number. --fail-if 'NAME<0.9' judges it; of a task metric also NAME_drop. Repeatable.",
        ),
        _gate(
            "--gate",
            type=click.Choice([NONE, TASK, USUAL, AUTO]),
            show_default="usual where a model is quantized, task where two are compared",
            rare=True,
            help="The default gates. task: outputs that are scored by argmax (see --task) keep 97% of their "
            "classes or 99% of their sequences or, with --labels, lose at most 0.5 points of accuracy; "
            "it fails only if the 95% interval shows it. usual: task, and the usual SQNR of the "
            "precision (static 20 dB, dynamic 12, 4-bit weights 10, fp16 50), where there are samples. "
            "auto: the same, and it fails without samples. none: no default gate.",
        ),
        _gate(
            "--class-axis",
            type=int,
            metavar="AXIS",
            rare=True,
            help="--task: the axis of the classes, such as 1 for scores of [N, classes, steps]. Default: "
            "that of the Softmax at the end, else the last axis.",
        ),
        _gate(
            "--task",
            type=click.Choice(list(TASKS)),
            callback=lambda context, option, value: value or "",
            rare=True,
            help="What argmax decides, in outputs that end in Softmax, LogSoftmax or ArgMax, else in the "
            f"first float output. {_rows(TASKS)}. The blank is class 0 or the last one, whichever FP32 "
            "gives more often. Default: classify for such outputs; ctc where the only output is [N, "
            "steps, classes] and mostly blank.",
        ),
        gates_option,
        _gate(
            "--labels",
            type=click.Path(path_type=Path),
            rare=True,
            help="The true classes, for both models' accuracy: JSON or .csv, sample file name -> class, or a "
            "text (see --alphabet). With --metric NAME: the labels that this metric takes, as JSON, or a "
            "folder of .npy.",
        ),
        _gate(
            "--alphabet",
            default="",
            metavar="SYMBOLS|FILE",
            rare=True,
            help="The symbols of the classes, in order, where labels are texts: their characters, or a file "
            "with one symbol a line or a JSON list; with or without the blank. Default: '_classes' in the "
            "labels.",
        ),
        _gate(
            "--fail-if",
            multiple=True,
            metavar="EXPR",
            brief="Exit 1 when EXPR holds: 'sqnr<20', 'top1<0.99', 'speedup<1.2', .. Repeatable.",
            help="Exit 1 when EXPR holds, or can't be judged: [OUTPUT:]METRIC<NUMBER, or >. Metrics: sqnr, "
            "sqnr_worst, sqnr_centred, cosine, rel_l2, max_error, mean_error, p99_error, mismatch, kl, top1, "
            "top5, sequences (unchanged, see --task), agreement (rows of both, such as boxes), unequal, "
            "nonfinite, accuracy, accuracy_drop (with --labels), speedup, size (quantized / FP32), "
            "quantized (nodes). Repeatable.",
        ),
    ):
        command = option(command)
    return command


JUDGING = ("labels", "alphabet", "task", "class_axis", "metrics", "atol", "rtol")


def gates_of(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the gates of --fail-if and --gates."""
    if values["gates"] is None:
        return tuple(values["fail_if"])
    from qtool.evaluate.gates import read_gates

    return (*values["fail_if"], *read_gates(values["gates"]))
