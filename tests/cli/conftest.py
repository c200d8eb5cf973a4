"""A model on disk with samples, and one quantization of it with its plan, for the tests of the program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.cli.program import run
from tests.graphs import write_samples
from tests.rewrite.zoo import CASES


@dataclass(frozen=True)
class Workplace:
    """Files to work with: nothing here may change."""

    model: Path
    calib: Path
    quantized: Path
    plan: Path
    bad: Path


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Quantized for `generic`, where no timing has a say."""
    folder = tmp_path_factory.mktemp("place")
    case = CASES["transformer"]
    model = folder / "model.onnx"
    model.write_bytes(case.build().SerializeToString())
    random = np.random.default_rng(0)
    made = [{"x": random.standard_normal((2, 6, 32)).astype(np.float32)} for _ in range(9)]
    calib = write_samples(folder / "calib", made)
    quantized, plan = folder / "int8.onnx", folder / "plan.json"
    done = run(
        "quantize", model, "-o", quantized, "--calib", calib, "--target", "generic", "--save-plan", plan
    )
    assert done.returncode == 0, done.stderr
    bad = folder / "bad.onnx"
    bad.write_bytes(model.read_bytes()[:-100])
    return Workplace(model, calib, quantized, plan, bad)
