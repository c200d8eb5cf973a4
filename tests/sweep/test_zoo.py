"""Every specimen of the zoo in every mode: near FP32, valid, unchanged at its borders; or a plain refusal."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
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
from tests.sweep.judge import EXACT_DB, complaint
from tests.sweep.noise import Outputs, noisy_runs
from tests.sweep.specimen import Sample, Specimen
from tests.sweep.ways import WAYS, Way, avoid_saturation, make_eager, settle_speed
from tests.sweep.zoo import ZOO
from tests.tiers import nightly

# `make test` runs one in eighty of all the combinations, `make test-all` all of them.
EVERY = 1 if nightly() else 80
# The backend suite's ways, and what that has no need of: each mode on each target, the modes that calibrate
# without samples, and what is quantized already, anew.
ZOO_WAYS: dict[str, Way] = {
    **WAYS,
    "static-generic-table": replace(WAYS["static"], target="generic"),
    "static-anew": replace(WAYS["static-eager"], choices={"requantize": True}),
    "dynamic-generic-table": replace(WAYS["dynamic"], target="generic"),
    "weight-only-generic": replace(WAYS["weight-only-eager"], target="generic"),
    "weight-only-4-cpu": replace(WAYS["weight-only-4"], target="cpu"),
    "weight-only-anew": replace(WAYS["weight-only-eager"], choices={"requantize": True}),
    "fp16-generic": replace(WAYS["fp16"], target="generic"),
}
# A combination that once went wrong is tried on every run.
FORMER_FAULTS = {
    "10-resize-by-1.7": "weight-only-eager",
    "10-resize-linear-in-if": "dynamic",
    "12-hardmax": "weight-only",
    "7-upsample-linear": "fp16",
    "avgpool-dilated-19": "static-generic",
    "clip-inside-out": "static-eager",
    "computed-constant-output": "static",
    "concat-of-other-scales": "static-eager",
    "constant-strings": "weight-only",
    "deconv-grouped": "static-eager",
    "gather-nd-tail": "static-generic",
    "input-is-output": "static-io",
    "matmul-bias-has-more-axes": "dynamic-generic",
    "matmul-bias-widens": "dynamic-generic",
    "matmul-vector-input-with-bias": "dynamic-generic",
    "matmul-weight-on-the-left": "weight-only-eager",
    "qdq-8-bit-floats": "static-io",
    "weight-standardized": "static-eager",
    "weights-1e38": "dynamic-eager",
    "weights-largest": "weight-only-4",
}
COMBINATIONS = [
    (name, label)
    for name in ZOO
    for index, label in enumerate(ZOO_WAYS)
    if (zlib.crc32(name.encode()) + index) % EVERY == 0 or FORMER_FAULTS.get(name) == label
]


@pytest.mark.parametrize(("name", "label"), COMBINATIONS, ids=[f"{n}-{w}" for n, w in COMBINATIONS])
def test_is_quantized_well_or_refused_plainly(
    name: str, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specimen, way = ZOO[name], ZOO_WAYS[label]
    settle_speed(monkeypatch)
    avoid_saturation(monkeypatch)
    if way.eager:
        make_eager(monkeypatch)
    model, samples = specimen.model(), specimen.samples()
    before = model.SerializeToString(deterministic=True)
    output = tmp_path / "q.onnx"
    try:
        result = quantized(specimen, model, samples, way, output)
    except QtoolError as error:
        assert specimen.refused, f"{type(error).__name__} {error.message}"
        assert specimen.refused in error.message
        assert not output.exists()
        return
    finally:
        assert model.SerializeToString(deterministic=True) == before
    assert specimen.quantized or not specimen.refused
    assert not [g for g in result.report.recovered if g.failed]
    assert [f.name for f in tmp_path.iterdir() if f.name != "in"] == ["q.onnx"]
    assert_alike(model, onnx.load(output), way)
    if way.eager and way.mode not in specimen.idle:
        assert touched(result), "nothing was quantized"
    assert_near(name, model, samples, result, way, output)


def quantized(
    specimen: Specimen, model: onnx.ModelProto, samples: Sequence[Sample], way: Way, output: Path
) -> qtool.Result:
    source: Any = model
    if specimen.file:
        source = output.parent / "in" / "model.onnx"
        source.parent.mkdir()
        beside = onnx.ModelProto()
        beside.CopyFrom(model)
        onnx.save_model(beside, source, save_as_external_data=True, location="w.bin", size_threshold=0)
    plain = all(isinstance(v, np.ndarray) for s in samples for v in s.values())
    data = list(samples) if plain and samples[0] else None
    calib: Any = data if way.mode in ("static", "fp16") else None
    if way.mode == "static" and data is None:
        calib = "none"
    options = way.options(calib=calib, data=data)
    if way.eager:
        try:
            return qtool.quantize(source, output, qtool.Options(include=["*"], **options))
        except UsageError as error:
            assert "--include" in error.message, error.message  # none of its nodes has a form
    return qtool.quantize(source, output, qtool.Options(**options))


def touched(result: qtool.Result) -> bool:
    """Whether a node computes in fewer bits, or a weight is stored in fewer."""
    plan = result.plan
    return bool(plan.forms or plan.sites or plan.fp16.stored or plan.choices.io == "float16")


def assert_alike(before: onnx.ModelProto, after: onnx.ModelProto, way: Way) -> None:
    """Valid, with the same inputs and outputs, and nothing lost that is said about it."""
    onnx.checker.check_model(after, full_check=True)
    own = {t.name for t in before.graph.initializer}
    fed = [i for i in before.graph.input if i.name not in own]
    assert [i.name for i in after.graph.input] == [i.name for i in fed]
    assert [o.name for o in after.graph.output] == [o.name for o in before.graph.output]
    if way.choices.get("io") is None:
        for a, b in ((fed, after.graph.input), (before.graph.output, after.graph.output)):
            assert all(_fits(x, y) for x, y in zip(a, b, strict=True))
    props = {p.key: p.value for p in after.metadata_props}
    said = {p.key: p.value for p in before.metadata_props if not p.key.startswith("qtool.")}
    assert said.items() <= props.items()
    for part in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        assert getattr(after, part) == getattr(before, part)
    assert (after.graph.name, after.graph.doc_string) == (before.graph.name, before.graph.doc_string)


def _fits(before: onnx.ValueInfoProto, after: onnx.ValueInfoProto) -> bool:
    """Whether the kind, the element type and the rank, where one is declared, are the same."""
    a, b = before.type, after.type
    if a.WhichOneof("value") != b.WhichOneof("value") or a.tensor_type.elem_type != b.tensor_type.elem_type:
        return False
    ranks = [len(t.tensor_type.shape.dim) for t in (a, b)]
    return ranks[0] == ranks[1] or not a.tensor_type.HasField("shape")


def assert_near(
    name: str,
    model: onnx.ModelProto,
    samples: Sequence[Sample],
    result: qtool.Result,
    way: Way,
    output: Path,
) -> None:
    """The same outputs, finite where FP32 is; as near as the mode's floor of SQNR says, or noise does."""
    names = [o.name for o in model.graph.output]
    floor = way.floor if touched(result) or way.choices.get("requantize") else EXACT_DB
    expected = fp32(name)

    @cache
    def noise() -> list[Outputs | None]:
        runs = [noisy_runs(model, sample, way.grid, zlib.crc32(name.encode())) for sample in samples]
        draws = zip(*runs, strict=True)
        return [None if any(r is None for r in draw) else pooled(draw) for draw in draws]

    for optimize in (True, False):
        session = with_float_io(Session(output, threads=1, optimize=optimize))
        assert session.outputs == names
        got = [session.run(_typed(sample, session.input_dtypes)) for sample in samples]
        if way.choices.get("io") == "float16":
            got = [
                [_like(b, a) for a, b in zip(*both, strict=True)] for both in zip(expected, got, strict=True)
            ]
        problem = complaint(names, pooled(expected), pooled(got), floor, noise)
        assert not problem, f"{'optimized' if optimize else 'plain'}: {problem}"


def pooled(runs: Sequence[Any]) -> list[list[Any]]:
    """Each output as the list of what it was, sample by sample: scales rest on all of them together."""
    outputs = zip(*runs, strict=True)
    return [
        [part for one in output for part in (one if isinstance(one, list) else [one])] for output in outputs
    ]


@cache
def fp32(name: str) -> list[Outputs]:
    """The outputs of a specimen for its samples."""
    session = Session(ZOO[name].model().SerializeToString(), threads=1)
    return [session.run(sample) for sample in ZOO[name].samples()]


def _typed(sample: Sample, dtypes: dict[str, str | None]) -> Sample:
    """Floats in the type that the model takes."""
    return {
        k: v.astype(dtypes[k]) if isinstance(v, np.ndarray) and v.dtype == np.float32 else v
        for k, v in sample.items()
    }


def _like(value: Any, expected: Any) -> Any:
    """float16 for which FP32 has float32, as that."""
    wider = isinstance(value, np.ndarray) and value.dtype == np.float16 and expected.dtype == np.float32
    return value.astype(np.float32) if wider else value
