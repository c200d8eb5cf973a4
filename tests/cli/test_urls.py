"""URLs on the command line: what is read is fetched, what is written is uploaded, and nothing stays here."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Workplace
from tests.cli.program import run


def test_quantize_reads_and_writes_urls(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    output = f"file://{tmp_path}/new/int8.onnx"
    done = run(
        "quantize", f"file://{place.model}", "-o", output, "--calib", f"file://{place.calib}", "--target", "generic",
        env={"QTOOL_TIMING": "table", "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"written to {output}" in done.stdout
    assert f"file://{place.calib}" in done.stdout
    assert (tmp_path / "new/int8.onnx").read_bytes() == place.quantized.read_bytes()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_folders_travel_too(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export/model.onnx").write_bytes(place.model.read_bytes())
    (tmp_path / "export/tokenizer.json").write_text("{}")
    source, output = f"file://{tmp_path}/export", f"file://{tmp_path}/small"
    first = run("quantize", source, "-o", output, "--mode", "weight-only", "--gate", "none")
    assert first.returncode == 0, first.stderr
    assert f"written to {output}" in first.stdout
    compared = run(
        "compare", source, output, "--data", f"file://{place.calib}", "--json", "--fail-if", "sqnr<20"
    )
    assert compared.returncode == 0, compared.stderr
    report = json.loads(compared.stdout)
    assert (report["source"], report["output"]) == (source, output)
    within = run("quantize", source, "-o", f"{source}/small", "--mode", "weight-only", "--force")
    assert within.returncode == 2
    assert "lie in each other" in within.stderr


def test_what_is_not_there_and_what_exists_is_refused(place: Workplace, tmp_path: Path) -> None:
    model, taken = f"file://{place.model}", tmp_path / "taken.onnx"
    taken.write_bytes(b"mine")
    missing = run("inspect", f"file://{tmp_path}/none.onnx")
    assert (missing.returncode, missing.stderr) == (3, f"error: file://{tmp_path}/none.onnx does not exist\n")
    samples = run("quantize", model, "-o", tmp_path / "o.onnx", "--calib", f"file://{tmp_path}/none")
    assert (samples.returncode, samples.stderr) == (4, f"error: file://{tmp_path}/none does not exist\n")
    exists = run("quantize", model, "-o", f"file://{taken}", "--mode", "dynamic")
    assert exists.returncode == 2
    assert "--force" in exists.stderr
    assert taken.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [taken]
