"""Every case of onnx's backend suite in every mode: a valid model near FP32, or a plain refusal.

`make test` runs one in twelve of those that are files, `make test-all` all of them. Each case comes as it is, and with its
inputs as weights (cases.py); each is quantized in all the ways of ways.py, in process.
"""

from __future__ import annotations

import signal
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qtool
from qtool.errors import QtoolError, UsageError
from qtool.evaluate.float_io import with_float_io
from qtool.runtime.session import Session
from tests.sweep.cases import Case, case, names
from tests.sweep.judge import EXACT_DB, complaint
from tests.sweep.noise import Outputs, noisy_runs
from tests.sweep.ways import WAYS, Way, avoid_saturation, make_eager, settle_speed
from tests.tiers import nightly

CASES = names() if nightly() else names(kept=True, every=12)
# Seconds that one model may take in one way; the largest take 10.
LIMIT = 60
# What qtool may refuse a model or a sample of the suite for: (exit code, words of the message).
REFUSALS = (
    (3, "training info, which can't be kept"),
    (3, "a type that can't be kept"),
    (3, "which samples can't hold"),
    (3, "which types of 2, 4 and 16 bits need"),
    (3, "which integer inputs and outputs need"),
    (3, "can't be converted to opset"),
    (4, "holds NaN"),
    (4, "holds infinity"),
    (4, "is an empty batch"),
)
# What is still to be mended: words of the outcome, and the cause.
EXPECTED_FAILURES = {
    "has shape (2, 3) in FP32, (1, 3) quantized": "validate takes another number of boxes for another model",
}


@pytest.mark.parametrize("name", CASES)
def test_is_quantized_well_or_refused_plainly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, Any], None]
) -> None:
    tested = case(name)
    fp32 = fp32_outputs(tested)
    if isinstance(fp32, str):
        record_property("skipped", fp32)
        pytest.skip(fp32)
    settle_speed(monkeypatch)
    avoid_saturation(monkeypatch)
    before = tested.model.SerializeToString(deterministic=True)
    failures = {}
    for label, way in WAYS.items():
        with monkeypatch.context() as patch:
            if way.eager:
                make_eager(patch)
            with time_limit(LIMIT):
                outcome = tried(tested, fp32, way, tmp_path / "q.onnx")
        record_property(label, outcome)
        if not outcome.startswith(("quantized", "float", "refused")):
            failures[label] = outcome
        assert not list(tmp_path.iterdir()), label
    assert tested.model.SerializeToString(deterministic=True) == before
    told = "\n".join(f"{label}: {outcome}" for label, outcome in failures.items())
    for words, cause in EXPECTED_FAILURES.items():
        if failures and all(words in outcome for outcome in failures.values()):
            pytest.xfail(cause)
    assert not failures, told


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    """A hang becomes an error, where the system has alarms; it has to end in Python, not in native code."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"more than {seconds} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fp32_outputs(tested: Case) -> Outputs | str:
    """The outputs of the case in onnxruntime, or the reason why it can't be tested."""
    try:
        session = Session(tested.model.SerializeToString(), threads=1)
        fp32, second = session.run(tested.inputs), session.run(tested.inputs)
    except Exception as error:  # of many kinds: inputs that Python can't hand over, too
        return f"onnxruntime can't: {error}"
    if not tested.agrees(fp32):
        return "onnxruntime's outputs are not the expected ones"
    return fp32 if all(_same(a, b) for a, b in zip(fp32, second, strict=True)) else "it is random"


def tried(tested: Case, fp32: Outputs, way: Way, path: Path) -> str:
    """'quantized ..', 'float' or 'refused ..', or else what is wrong."""
    try:
        result = quantized(tested, way, path)
    except QtoolError as error:
        expected = any(error.exit_code == code and words in error.message for code, words in REFUSALS)
        return f"{'refused' if expected else 'failed'}: {type(error).__name__} {error.message}"
    except Exception as error:
        return f"failed: {type(error).__name__} {error}"
    try:
        problem = judged(tested, fp32, way, path, result)
    except Exception as error:  # what was written does not even run
        problem = f"{type(error).__name__} {error}"
    finally:
        path.unlink()
    plan = result.plan
    done = f"{len(plan.forms)} nodes, {len(plan.sites)} sites"
    if problem:
        return f"wrong, with {done}: {problem}"
    return f"quantized: {done}" if touched(result) else "float"


def touched(result: qtool.Result) -> bool:
    plan = result.plan
    return bool(plan.forms or plan.sites or plan.fp16.stored or plan.choices.io == "float16")


def quantized(tested: Case, way: Way, path: Path) -> qtool.Result:
    """The model in a file, by the library's own entry. `include` is for what the tables find too slow."""
    sample = tested.sample
    data = None if sample is None else [sample]
    calib: Any = data if way.mode in ("static", "fp16") else None
    if way.mode == "static" and data is None:
        calib = "none"  # a sequence can't be a sample
    options = way.options(calib=calib, data=data)
    if way.eager:
        try:
            return qtool.quantize(tested.model, path, qtool.Options(include=["*"], **options))
        except UsageError as error:
            assert "--include" in error.message, error.message  # none of its nodes has a form
    return qtool.quantize(tested.model, path, qtool.Options(**options))


def judged(tested: Case, fp32: Outputs, way: Way, path: Path, result: qtool.Result) -> str:
    """The fault of the written file, '' for none."""
    if failed := [g for g in result.report.recovered if g.failed]:
        return f"{failed[0].name} could not be tried: {failed[0].failed}"
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    before, after = tested.model.graph, model.graph
    if way.choices.get("io") is None:
        for a, b in ((_ports(before), _ports(after)), (before.output, after.output)):
            if [(v.name, v.type.WhichOneof("value"), v.type.tensor_type.elem_type) for v in a] != [(v.name, v.type.WhichOneof("value"), v.type.tensor_type.elem_type) for v in b]:  # fmt: skip
                return "its inputs or outputs are others"

    @cache
    def noise() -> list[Outputs | None]:
        return noisy_runs(tested.model, tested.inputs, way.grid, zlib.crc32(tested.name.encode()))

    floor = way.floor if touched(result) else EXACT_DB
    for optimize in (True, False):
        session = with_float_io(Session(path, threads=1, optimize=optimize))
        got = session.run(_typed(tested.inputs, session.input_dtypes))
        if way.choices.get("io") == "float16":
            got = [_like(b, a) for a, b in zip(fp32, got, strict=True)]
        names = [o.name for o in before.output]
        if session.outputs != names:
            return f"its outputs are {session.outputs}, not {names}"
        if problem := complaint(names, fp32, got, floor, noise):
            return f"{'optimized' if optimize else 'plain'}: {problem}"
    return ""


def _ports(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that must be fed."""
    own = {t.name for t in graph.initializer}
    return [i for i in graph.input if i.name not in own]


def _typed(inputs: Any, dtypes: dict[str, str | None]) -> dict[str, Any]:
    """Floats in the type that the model takes."""
    return {
        k: v.astype(dtypes[k]) if isinstance(v, np.ndarray) and v.dtype == np.float32 else v
        for k, v in inputs.items()
    }


def _like(value: Any, fp32: Any) -> Any:
    """float16 for which FP32 has float32, as that."""
    wider = isinstance(value, np.ndarray) and value.dtype == np.float16 and fp32.dtype == np.float32
    return value.astype(np.float32) if wider else value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return isinstance(b, list) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    x, y = np.asarray(a), np.asarray(b)
    return x.shape == y.shape and (x.tobytes() == y.tobytes() or bool(np.array_equal(x, y)))
