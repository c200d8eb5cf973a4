"""A dry run tells the size of the file of each mode that needs no samples."""

from __future__ import annotations

from pathlib import Path

import pytest

import qtool
from qtool.options import Options
from tests.rewrite.test_side_files import table_and_products


@pytest.mark.parametrize("side_file", [False, True], ids=["inline", "external"])
def test_the_file_has_the_size_that_the_dry_run_tells(tmp_path: Path, side_file: bool) -> None:
    model = table_and_products(tmp_path / "m.onnx", side_file=side_file)
    sizes = qtool.dry_run(model, Options(mode="fp16")).report.sizes
    assert {(s.mode, s.bits) for s in sizes} >= {("fp16", 16), ("dynamic", 8), ("weight-only", 4)}
    for size in sizes:
        bits = {"bits": size.bits} if size.mode == "weight-only" else {}
        written = tmp_path / f"{size.mode}{size.bits}.onnx"
        qtool.quantize(model, written, Options(mode=size.mode, **bits))
        assert size.bytes == pytest.approx(written.stat().st_size, rel=0.05)


def test_a_mode_that_the_target_lacks_has_no_size(tmp_path: Path) -> None:
    model = table_and_products(tmp_path / "m.onnx", side_file=False)
    sizes = qtool.dry_run(model, Options(mode="static", target="tensorrt")).report.sizes
    assert "dynamic" not in {s.mode for s in sizes}
