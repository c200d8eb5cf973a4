"""Latency, memory and time per op of models side by side, each in its own process."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import onnx

from qtool import __version__
from qtool.commands.prepare import load_model, read_samples
from qtool.data.model_inputs import inputs_of
from qtool.data.open import Data
from qtool.data.reading import ListFields, Reading
from qtool.data.samples import Sample, Samples, check_used, evenly, synthetic
from qtool.errors import DataError, EnvironmentFailure, ModelError, UsageError, counted, printable
from qtool.evaluate.bench_models import BenchModel, Memory, worker_models
from qtool.evaluate.bench_rounds import LEAST_ROUNDS, TIGHT, RoundTimes, run_rounds, speedup
from qtool.evaluate.gates import Gate, GateResult, Verdict, judge, parse
from qtool.evaluate.latency import Ratio
from qtool.graph.load import Source
from qtool.numerics.bootstrap import quantile
from qtool.options import ModelLike, Progress, silent
from qtool.runtime.providers import as_made_for, check_runtime, runtime_of
from qtool.runtime.trace import OpTimes
from qtool.tables.runtimes import DEFAULT, Tells

SECONDS = 20.0
# Of a source, unless more are asked for: enough for shapes to differ.
_SAMPLES = 8
# A difference below this is not called one, however sure it seems: no user feels it, and what a busy machine
# does to one process and not to the other may last for many rounds.
MARGIN = 0.015
FASTER, SLOWER, SAME, UNDECIDED = "faster", "slower", "same", "undecided"
# What gates may be on, and what it is here.
GATED = {"speedup": "time of the first model / its own", "size": "its bytes / those of the first model"}


@dataclass(frozen=True, kw_only=True)
class Benching(ListFields):
    """The options of a bench.

    Args:
        data_format: the kind of the samples, where they don't show it.
        reading: how they are to be read; 8 of them, evenly chosen, unless it says how many.
        runtime: a row of tables/runtimes.py, and its precision, such as 'openvino:bf16': one for all models,
            or one for each; (): onnxruntime.
        threads: of the runtime, at least 1.
        max_time: seconds of timing; less where every ratio is known to 1% before.
        profile_ops: measure the time of each op, too.
        fail_if: gates on `speedup` (of every model against the first) and `size` (its bytes / those of the
            first), such as 'speedup<1.2'.
    """

    data_format: str = ""
    reading: Reading = field(default_factory=Reading)
    runtime: Sequence[str] = ()
    threads: int = 1
    max_time: float = SECONDS
    profile_ops: bool = False
    fail_if: Sequence[str] = ()


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single inferences.

    Args:
        inferences: how many were timed.
        p50, p90, p99: percentiles; None where there are too few inferences for one.
    """

    inferences: int
    p50: float
    p90: float | None
    p99: float | None


@dataclass(frozen=True)
class Benched:
    """The measurements of one model.

    Args:
        path: as it was named; 'model' in memory.
        bytes: of its file, external data included.
        load_ms: milliseconds to open it, the median over rounds; its file was read before.
        memory: None where the system does not say.
        speedup: time of the first model / time of this one, None for the first itself.
        size_ratio: bytes / those of the first model.
        verdict: 'faster' or 'slower' than the first, where the interval shows it to be by more than 1.5%;
            'same': no measurable difference; 'undecided' after too few rounds; '' for the first itself.
        op_times: the time of each op and of the slowest nodes, with `profile_ops`.
        runtime: that ran it, with the precision of its float nodes where it has several.
    """

    path: str
    bytes: int
    sha256: str
    latency: Latency
    load_ms: float
    memory: Memory | None
    speedup: Ratio | None
    size_ratio: float
    verdict: str
    op_times: OpTimes | None = None
    runtime: str = DEFAULT


@dataclass(frozen=True)
class Judged:
    """A gate on one model."""

    model: str
    result: GateResult

    @property
    def why(self) -> str:
        """One line for a person."""
        gate, result = self.result.gate, self.result
        text = f"{self.model}: {gate.text}: {gate.metric} is {result.value:.4g}"
        if result.inconclusive and result.interval:
            low, high = result.interval
            return f"{text}, inconclusive: {low:.4g} to {high:.4g} with 95% certainty"
        return f"{text} ({GATED[gate.metric]})"


@dataclass(frozen=True)
class Bench:
    """The result.

    Args:
        version: of qtool.
        data: the source of samples.
        samples: how many of them were used.
        synthetic: they were made up.
        threads: of the runtime.
        rounds: how often all models had new processes, in which each was opened several times.
        seconds: that timing took.
        models: the first is what the others are held against.
        gates: every gate on every model but the first.
        warnings: what a reader should know.
        arguments: the command line; empty in Python.
    """

    version: str
    data: str
    samples: int
    synthetic: bool
    threads: int
    rounds: int
    seconds: float
    models: tuple[Benched, ...]
    gates: tuple[Judged, ...] = ()
    warnings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Judged, ...]:
        """The gates that failed."""
        return tuple(g for g in self.gates if g.result.failed)


def bench_models(
    models: ModelLike | Sequence[ModelLike],
    data: Data,
    options: Benching | None = None,
    progress: Progress = silent,
) -> Bench:
    """Time models in turns on the same samples, until every ratio to the first is known, or the time is up.

    Each runs in a process of its own, a new one in every round: where a session's memory comes to lie changes
    its speed for as long as it is open (evaluate/bench_rounds.py).

    Args:
        models: paths, or models in memory; at least one.
        data: a source that tables/sources.py knows, or an object that data/iterables.py takes.
        options: everything else.
        progress: called with seconds of seconds.

    Raises:
        QtoolError: UsageError, ModelError, DataError, EnvironmentFailure or RuntimeFailure.
    """
    options = options or Benching()
    named = [models] if isinstance(models, str | Path | onnx.ModelProto) else list(models)
    gates = _gates(options, len(named))
    sources = _loaded(named)
    runtimes = _runtimes(options, sources)
    samples = read_samples(sources[0], data, options.reading, options.data_format)
    check_used(options.reading, [samples])
    chosen = _chosen(samples, options.reading.samples or _SAMPLES)

    def show_seconds(seconds: float) -> None:
        progress("bench", int(seconds), int(options.max_time))

    with _scratch() as folder, contextlib.ExitStack() as stack:
        remote = worker_models(sources, runtimes, chosen, samples.name, options.threads, folder)
        for each in remote:
            stack.callback(each.close)
        began = time.perf_counter()
        timings = run_rounds(remote, len(chosen), options.max_time, progress=show_seconds)
        seconds = time.perf_counter() - began
        op_times = [each.op_times(folder) if options.profile_ops else None for each in remote]
    benched = tuple(
        _benched(each, timing, None if each is remote[0] else speedup(timing, timings[0]), times)
        for each, timing, times in zip(remote, timings, op_times, strict=True)
    )
    benched = tuple(replace(b, size_ratio=b.bytes / max(benched[0].bytes, 1)) for b in benched)
    return Bench(
        version=__version__,
        data=samples.name,
        samples=len(chosen),
        synthetic=synthetic(samples),
        threads=options.threads,
        rounds=len(timings[0].turns),
        seconds=seconds,
        models=benched,
        gates=tuple(Judged(b.path, _judged(gate, b)) for b in benched[1:] for gate in gates),
        warnings=(*samples.doubts(), *_warnings(sources, benched)),
    )


def _gates(options: Benching, models: int) -> list[Gate]:
    """Return the gates of the options.

    Raises:
        UsageError: a gate that bench can't judge; options that can't be.
    """
    if options.threads < 1:
        raise UsageError("bench needs a number of threads", "threads=1, or as many as the model will have")
    if not options.max_time > 0:
        raise UsageError("bench needs time", f"max_time={SECONDS:g}")
    if not models:
        raise UsageError("bench needs a model")
    gates = [parse(text) for text in options.fail_if]
    for gate in gates:
        if gate.metric not in GATED:
            raise UsageError(
                f"gate '{gate.text}': bench does not measure {gate.metric}",
                f"metrics here: {', '.join(GATED)}; qtool compare measures accuracy",
            )
        if models < 2:
            raise UsageError(f"gate '{gate.text}': nothing to hold the model against", "qtool bench A B")
    return gates


def _runtimes(options: Benching, sources: Sequence[Source]) -> list[str]:
    """Return the runtime of each model.

    Raises:
        UsageError: there are several, and not one for each model; one can't be timed, or has no node times.
        EnvironmentFailure: one does not open here.
    """
    named = list(options.runtime) or [DEFAULT]
    if len(named) not in (1, len(sources)):
        raise UsageError(
            f"{len(named)} runtimes for {counted(len(sources), 'model')}",
            "one for all models, or one for each",
        )
    if len(named) == 1:
        named *= len(sources)
    runtimes = [as_made_for(n, s.model.metadata_props) for n, s in zip(named, sources, strict=True)]
    for runtime in runtimes:
        tells = runtime_of(runtime)[0].tells
        if tells is Tells.OUTPUTS:
            raise UsageError(f"runtime {runtime} can't be timed: it tells {Tells.OUTPUTS.value}")
        if options.profile_ops and tells is not Tells.NODES:
            raise UsageError(
                f"runtime {runtime} does not tell {Tells.NODES.value}", "leave out --profile-ops"
            )
        check_runtime(runtime)
    return runtimes


def _loaded(models: Sequence[ModelLike]) -> list[Source]:
    """The models, which take the same inputs.

    Raises:
        ModelError: one can't be read, or has other inputs than the first.
    """
    sources = [load_model(model) for model in models]
    first, wanted = sources[0], set(inputs_of(sources[0].model))
    for source in sources[1:]:
        have = set(inputs_of(source.model))
        for name in (*sorted(wanted - have), *sorted(have - wanted)):
            lacking, other = (source, first) if name in wanted else (first, source)
            has = printable(", ".join(sorted(inputs_of(lacking.model))) or "none")
            raise ModelError(
                f"{lacking.name} has no input '{printable(name)}', which {other.name} has (it has: {has})",
                "models side by side take the same samples",
            )
    return sources


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="qtool-bench-")
    except OSError as error:
        raise EnvironmentFailure(f"no temporary folder: {error.strerror}", "set TMPDIR") from error
    with folder as path:
        yield Path(path)


def _chosen(samples: Samples, most: int) -> list[Sample]:
    """Some of the samples, evenly chosen."""
    total = len(samples)
    if not total:
        raise DataError(f"{samples.name}: no samples to run on")
    return list(samples.read(evenly(total, most)))


def _benched(
    remote: BenchModel, timing: RoundTimes, ratio: Ratio | None, op_times: OpTimes | None
) -> Benched:
    p50, p90, p99 = (_ms(quantile(timing.singles, share)) for share in (0.5, 0.9, 0.99))
    return Benched(
        path=remote.source.name,
        runtime=remote.runtime,
        bytes=remote.source.size,
        sha256=remote.source.sha256,
        latency=Latency(len(timing.singles), p50 or median(timing.singles) * 1e3, p90, p99),
        load_ms=median(timing.loads) * 1e3,
        memory=remote.memory,
        speedup=ratio,
        size_ratio=1.0,
        verdict=verdict_of(ratio) if ratio else "",
        op_times=op_times,
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def verdict_of(ratio: Ratio) -> str:
    """Return the verdict on a speed: faster, slower, same or undecided."""
    if ratio.low <= 0 or ratio.high == float("inf"):
        return UNDECIDED
    if ratio.low > 1 + MARGIN:
        return FASTER
    return SLOWER if ratio.high < 1 / (1 + MARGIN) else SAME


def _judged(gate: Gate, benched: Benched) -> GateResult:
    """A gate on a model; random samples do for speed. Fails, too, where the interval leaves it open."""
    (result,) = judge([gate], Verdict(speedup=_middle(benched), size=benched.size_ratio))
    if gate.metric != "speedup" or result.failed or benched.speedup is None:
        return result
    interval = benched.speedup.low, benched.speedup.high
    fails = [judge([gate], Verdict(speedup=end))[0].failed for end in interval]
    return replace(result, interval=interval, inconclusive=any(fails), failed=any(fails))


def _middle(benched: Benched) -> float | None:
    return benched.speedup.median if benched.speedup else None


def _warnings(sources: Sequence[Source], benched: Sequence[Benched]) -> tuple[str, ...]:
    mended = [f"{source.name}: {warning}" for source in sources for warning in source.warnings]
    if any(b.verdict == UNDECIDED for b in benched):
        mended.append(f"less than {LEAST_ROUNDS} rounds tell nothing of ratios: a larger --max-time")
    elif any(b.speedup and b.speedup.high - b.speedup.low > TIGHT * b.speedup.median for b in benched):
        mended.append(
            "the time was up before every ratio was known to 1%: a larger --max-time, or a quieter machine"
        )
    return tuple(dict.fromkeys(mended))
