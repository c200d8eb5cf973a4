"""Models from the world with their samples as files of other kinds. Only where they are at hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.program import run
from tests.graphs import SHARED_MODELS

pytestmark = pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason=f"{SHARED_MODELS} is absent")

VOICE = SHARED_MODELS / "silero_vad"
DIGITS = SHARED_MODELS / "tabular_mlp_digits"


@pytest.mark.parametrize(("rate", "window"), [(16000, 576), (8000, 288)], ids=["as it is", "resampled"])
def test_a_recording_calibrates_a_model_of_speech(tmp_path: Path, rate: int, window: int) -> None:
    """Of 16,000 Hz, as the samples that come with the model are cut from it; all other inputs are filled."""
    words = ["--fill", "state=0", "--fill", f"sr={rate}", "--shape", f"input=1,{window}", "--rate", str(rate)]
    done = run(
        "quantize", VOICE / "model.onnx", "-o", tmp_path / "q.onnx", "--calib", VOICE / "speech.wav",
        *words, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    comparison = json.loads(done.stdout)["comparison"]
    assert comparison["samples"] == 83
    assert min(output["sqnr"] for output in comparison["outputs"]) > 15


def rows() -> np.ndarray:
    """All samples of the digits, [N, 64]."""
    files = sorted((DIGITS / "calib").glob("*.npz"))
    return np.concatenate([np.load(file)["X"] for file in files])


def as_csv(path: Path) -> Path:
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"pixel{i}" for i in range(64)), "label"])
        writer.writerows([*row.tolist(), 7] for row in rows())
    return path.with_suffix(".csv")


def as_parquet(path: Path) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = {f"pixel{i}": column for i, column in enumerate(rows().T)}
    pq.write_table(pa.table({**table, "label": [7] * len(rows())}), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.mark.parametrize("save", [as_csv, as_parquet], ids=["csv", "parquet"])
def test_a_table_gives_the_same_model_as_its_samples(tmp_path: Path, save: object) -> None:
    made = []
    for name, words in {
        "npz": ["--calib", DIGITS / "calib"],
        "table": ["--calib", save(tmp_path / "digits"), "--columns", "!label"],
    }.items():
        out = tmp_path / f"{name}.onnx"
        done = run(
            "quantize", DIGITS / "model.onnx", "-o", out, *words, "--data", DIGITS / "eval",
            "--labels", DIGITS / "labels.json", "--target", "generic", "--fail-if", "accuracy<0.9", "-q",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        made.append(out.read_bytes())
    assert made[0] == made[1]
