"""The page of an analysis."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qtool.evaluate.analysis.model import (
    BlockError,
    Histogram,
    OutputError,
    RegionError,
    TensorError,
    TensorValues,
)
from qtool.report.analysis import Advice, Analysis, Cost
from qtool.report.html.analysis import to_html
from qtool.report.html.report import to_html as report_html
from qtool.report.model import ModelFile
from tests.report.made import FULL

COUNTS = np.array([1, 5, 20, 5, 1])
WEIGHT = TensorError(
    "<w>", "weight", "int8", "w_scale", ("conv",), "conv", 24.5, 0.75, 8, 31.0, math.nan, 0.31, 0.02, -1.0, 1.0, -0.5, 0.5,
    histogram=Histogram(-1.0, 1.0, COUNTS, np.array([0, 8, 16, 8, 0])), problem="the scale is 8 times too small",
)  # fmt: skip
REGIONS = tuple(
    RegionError(name, (name,), ("Conv",), "body", depth, db, share, db - 1, tensors, 8)
    for depth, (name, db, share, tensors) in enumerate([("conv", 24.5, 0.75, ("<w>",)), ("last", 40.0, 0.25, ())])
)  # fmt: skip
ANALYSIS = Analysis(
    "0.1", ModelFile("m.onnx", 100), ModelFile("q.onnx", 50), "onnxruntime", "qdq", "eval", 24.0,
    (OutputError("y", 24.0, 24.1),), REGIONS, (WEIGHT,), (BlockError("body", 2, 1.0),),
    (Advice("--exclude conv", "qtool quantize m.onnx --exclude conv", "it has most of the error", 39.0, 15.0, math.nan),),
    Cost(8, 14.5, 42), ("beware",),
)  # fmt: skip


def test_it_shows_both_curves_the_histogram_and_the_advice() -> None:
    page = to_html(ANALYSIS)
    for shown in (
        "local: this region", "accumulated: its result", "clip point", "8 times too small", "qtool quantize m.onnx --exclude conv",
        "+15.0 dB predicted", "RMSE/scale 0.310", "&lt;w&gt;", "beware", "14.5 runs",
    ):  # fmt: skip
        assert shown in page, shown
    assert page.count("<svg") == 2


def test_the_page_of_a_run_has_the_histograms_of_its_regions() -> None:
    values = TensorValues(
        "<w>", "weight", "int8", "conv", 31.0, 0.31, 0.02, -1.0, 1.0, -0.5, 0.5, (1, 8, 1), (0, 10, 0)
    )
    run = replace(FULL, tensors=(values,), race=None, trials=())
    measured, without = report_html(run), report_html(replace(run, tensors=()))
    assert "RMSE/scale 0.310" in measured
    assert measured.count("clip point") == without.count("clip point") + 1
    assert "Worst tensors" in report_html(replace(run, regions=()))
