"""Every form and type that the tables allow, in every mode, on each target and sample model; the rest is refused.

`make test` runs each form on one target and one model, in turn, and `make test-all` on all of them.
In process and without timing, so that speed decides nothing; the program itself runs in the other files.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qtool.errors import UsageError
from qtool.evaluate.float_io import with_float_io
from qtool.plan.scheme import ACTIVATION_TYPES, BLOCKS, WEIGHT_TYPES, Choices, make_scheme
from qtool.runtime.session import Session
from qtool.tables.modes import MODES
from qtool.tables.targets import TARGETS
from tests.cli.program import run
from tests.exact import exact
from tests.rewrite.flow import Outputs, sqnr, write
from tests.targets import COMMON
from tests.tiers import nightly

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODELS = ("cnn", "transformer", "lstm")
WIDE = [w for w in WEIGHT_TYPES if w.bits > 4]  # fewer: tests/recover/test_few_bits.py
FORMS: dict[str, list[dict[str, Any]]] = {
    "static": [
        {},
        {"symmetric": True},
        {"per_tensor": True},
        *({"io": io, "format": f} for io in ("uint8", "int8") for f in ("qdq", "qoperator")),
        *({"weights": w.name, "acts": a.name} for w in WIDE for a in ACTIVATION_TYPES),
        *({"weights": w.name, "acts": a.name, "format": "qoperator"} for w in WIDE for a in ACTIVATION_TYPES),
    ],
    "dynamic": [{}, {"include": ["op:Conv"]}],
    "weight-only": [{}, {"bits": 4}, {"bits": 2}, *({"prefer": "speed", "bits": bits} for bits in (8, 4, 2))]
    + [{"bits": bits, "block": block} for bits in (8, 4, 2) for block in BLOCKS],
    "fp16": [{}, {"io": "float16"}],
}  # fmt: skip
# Types of 16 bits and float16 lose next to nothing; the rest only has to resemble.
FLOORS = {"fp16": 50.0, "weight-only": 8.0, "dynamic": 20.0, "static": 15.0}
PLACES = [(target, model) for target in COMMON for model in MODELS]
CASES = [
    pytest.param(mode, target, form, model, id=f"{mode}-{target}-{'-'.join(map(str, form.values()))}-{model}")
    for mode in MODES
    for number, form in enumerate(FORMS[mode])
    for target, model in (PLACES if nightly() else [PLACES[number % len(PLACES)]])
]


@cache
def samples(model: str, part: str) -> list[dict[str, np.ndarray]]:
    return [dict(np.load(f)) for f in sorted((SAMPLES / model / part).glob("*.npz"))[:16]]


def outputs(data: bytes, model: str, optimize: bool) -> list[Outputs]:
    session = with_float_io(Session(data, threads=1, optimize=optimize))
    fed = [
        {k: v.astype(session.input_dtypes[k]) for k, v in s.items()}  # type: ignore[arg-type]
        for s in samples(model, "eval")
    ]
    return [dict(zip(session.outputs, session.run(s), strict=True)) for s in fed]


@pytest.mark.parametrize(("mode", "target", "form", "model"), CASES)
def test_allowed_forms_run_near_fp32(mode: str, target: str, form: dict[str, Any], model: str) -> None:
    if model != "cnn" and "include" in form:
        pytest.skip("no convolution to include")
    if model == "lstm" and TARGETS[target].exact and not exact():
        pytest.skip("the kernels of an int8 LSTM saturate on this CPU")
    choices = {k: v for k, v in form.items() if k != "include"}
    try:
        make_scheme(mode, target, Choices(**choices))
    except UsageError as error:
        assert any(word in error.message for word in ("--format qoperator", "--target"))
        return
    proto = onnx.load(SAMPLES / model / "model.onnx")
    result = write(proto, samples(model, "calib"), target, mode=mode, **form)
    onnx.checker.check_model(result.proto, full_check=True)
    expected = outputs(proto.SerializeToString(), model, True)
    floor = 0.5 if form.get("bits") == 2 else FLOORS[mode]  # rounded to nearest, 2 bits say little
    for optimize in (False, True):
        assert sqnr(expected, outputs(result.data, model, optimize)) >= floor, optimize


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("choice", [{"bits": 4}, {"format": "qoperator"}, {"prefer": "speed"}, {"acts": "int16"}], ids=str)  # fmt: skip
def test_a_choice_of_another_mode_is_an_error_that_names_it(mode: str, choice: dict[str, Any]) -> None:
    (name,) = choice
    if name in MODES[mode].options:
        make_scheme(mode, "cpu", Choices(**choice))
        return
    with pytest.raises(UsageError, match=name):
        make_scheme(mode, "cpu", Choices(**choice))


@pytest.mark.parametrize("form", [["--mode", "static", "--calib", "none", "--input-range", "0,1"], ["--mode", "fp16"], ["--mode", "static", "--io", "uint8", "--calib", str(SAMPLES / "cnn" / "calib")], ["--mode", "weight-only", "--set", "op:Gemm=fp32", "--set", "op:Conv=int4", "--gate", "none"]], ids=str)  # fmt: skip
def test_the_program_does_it_and_replays_it_byte_for_byte(form: list[str], tmp_path: Path) -> None:
    model, plan, data = SAMPLES / "cnn" / "model.onnx", tmp_path / "plan.json", SAMPLES / "cnn" / "eval"
    words = ("--data", data, "--samples", 16, "-q")
    done = run("quantize", model, "-o", tmp_path / "q.onnx", *form, *words, "--save-plan", plan)
    assert done.returncode == 0, done.stderr
    repeated = run("quantize", model, "-o", tmp_path / "again.onnx", "--plan", plan, *words)
    assert repeated.returncode == 0, repeated.stderr
    assert (tmp_path / "q.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
