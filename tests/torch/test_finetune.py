"""--recover finetune: better than GPTQ, the same bytes twice, and a plan that replays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import qtool
from tests.recover.test_gptq import convolutions, images

pytestmark = pytest.mark.filterwarnings("default")


@pytest.mark.parametrize(
    "choices", [{"weights": "int4", "include": ["*"]}, {"mode": "weight-only", "bits": 2}], ids=str
)
def test_fine_tuning_beats_gptq_and_its_plan_replays_to_the_byte(
    tmp_path: Path, choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qtool.recover.finetune.train.STEPS", 60)
    monkeypatch.setattr("qtool.recover.finetune.train.BLOCK_STEPS", 40)

    def run(name: str, **more: Any) -> qtool.Result:
        options = {"calib": images(48), "target": "cpu-avx2", "timing": "table", "gate": "none", "threads": 1}
        return qtool.quantize(convolutions(), tmp_path / name, qtool.Options(**options, **choices, **more))

    tuned = run("tuned.onnx", recover="gptq,finetune")
    run("again.onnx", recover="gptq,finetune")
    gain = next(g for g in tuned.report.recovered if g.name == "finetune")
    assert gain.kept and gain.after > gain.before, gain
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "tuned.onnx").read_bytes()
    choices = {}
    run("replayed.onnx", plan=tuned.plan)
    assert (tmp_path / "replayed.onnx").read_bytes() == (tmp_path / "tuned.onnx").read_bytes()
