"""Quantize ONNX models after training, and prove that the result still works.

    import qtool
    result = qtool.quantize("model.onnx", "int8.onnx", qtool.Options(calib="calib/"))
    report = qtool.compare("model.onnx", "int8.onnx", "held_out/", qtool.Comparing(fail_if=["sqnr<20"]))
    print(qtool.inspect("int8.onnx").quantized_share)

Names are imported when they are first used, so that `import qtool` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qtool.commands.advise import Advising
    from qtool.commands.advise import advise_on as advise
    from qtool.commands.analyze import Analyzing
    from qtool.commands.analyze import analyze_model as analyze
    from qtool.commands.bench import Bench, Benching
    from qtool.commands.bench import bench_models as bench
    from qtool.commands.calibrate import Calibrating
    from qtool.commands.calibrate import calibrate_model as calibrate
    from qtool.commands.compare import compare_models as compare
    from qtool.commands.data import Survey, survey
    from qtool.commands.folder import FolderReport, compare_folders, quantize_folder
    from qtool.commands.profile import Profiling
    from qtool.commands.profile import profile_machine as profile
    from qtool.commands.quantize import dry_run, quantize
    from qtool.commands.sweep import Sweep, sweep
    from qtool.commands.table import tune_table
    from qtool.commands.tune import tune
    from qtool.data.reading import Reading
    from qtool.errors import (
        DataError,
        EnvironmentFailure,
        ModelError,
        QtoolError,
        RuntimeFailure,
        UsageError,
    )
    from qtool.graph.inspection.change import difference
    from qtool.graph.inspection.model import Difference, Inspection
    from qtool.graph.inspection.read import inspect_model as inspect
    from qtool.options import Comparing, Options
    from qtool.plan.cost_table import CostTable
    from qtool.plan.model import Plan
    from qtool.report.analysis import Analysis
    from qtool.report.checklist import Checklist
    from qtool.report.model import Report, Result
    from qtool.report.saved import read_report, rejudge

# public name -> (module, name there)
_PUBLIC = {
    "Advising": ("qtool.commands.advise", "Advising"),
    "Analysis": ("qtool.report.analysis", "Analysis"),
    "Analyzing": ("qtool.commands.analyze", "Analyzing"),
    "Bench": ("qtool.commands.bench", "Bench"),
    "Checklist": ("qtool.report.checklist", "Checklist"),
    "Benching": ("qtool.commands.bench", "Benching"),
    "Calibrating": ("qtool.commands.calibrate", "Calibrating"),
    "Comparing": ("qtool.options", "Comparing"),
    "CostTable": ("qtool.plan.cost_table", "CostTable"),
    "Difference": ("qtool.graph.inspection.model", "Difference"),
    "Inspection": ("qtool.graph.inspection.model", "Inspection"),
    "FolderReport": ("qtool.commands.folder", "FolderReport"),
    "Options": ("qtool.options", "Options"),
    "Plan": ("qtool.plan.model", "Plan"),
    "Profiling": ("qtool.commands.profile", "Profiling"),
    "Reading": ("qtool.data.reading", "Reading"),
    "Report": ("qtool.report.model", "Report"),
    "Result": ("qtool.report.model", "Result"),
    "Survey": ("qtool.commands.data", "Survey"),
    "Sweep": ("qtool.commands.sweep", "Sweep"),
    "advise": ("qtool.commands.advise", "advise_on"),
    "analyze": ("qtool.commands.analyze", "analyze_model"),
    "bench": ("qtool.commands.bench", "bench_models"),
    "calibrate": ("qtool.commands.calibrate", "calibrate_model"),
    "compare": ("qtool.commands.compare", "compare_models"),
    "dry_run": ("qtool.commands.quantize", "dry_run"),
    "compare_folders": ("qtool.commands.folder", "compare_folders"),
    "difference": ("qtool.graph.inspection.change", "difference"),
    "inspect": ("qtool.graph.inspection.read", "inspect_model"),
    "profile": ("qtool.commands.profile", "profile_machine"),
    "quantize_folder": ("qtool.commands.folder", "quantize_folder"),
    "quantize": ("qtool.commands.quantize", "quantize"),
    "read_report": ("qtool.report.saved", "read_report"),
    "rejudge": ("qtool.report.saved", "rejudge"),
    "survey": ("qtool.commands.data", "survey"),
    "sweep": ("qtool.commands.sweep", "sweep"),
    "tune": ("qtool.commands.tune", "tune"),
    "tune_table": ("qtool.commands.table", "tune_table"),
    **{
        name: ("qtool.errors", name)
        for name in (
            "DataError",
            "EnvironmentFailure",
            "ModelError",
            "QtoolError",
            "RuntimeFailure",
            "UsageError",
        )
    },
}

__all__ = [
    "Advising",
    "Analysis",
    "Analyzing",
    "Bench",
    "Benching",
    "Calibrating",
    "Checklist",
    "Comparing",
    "CostTable",
    "DataError",
    "Difference",
    "EnvironmentFailure",
    "FolderReport",
    "Inspection",
    "ModelError",
    "Options",
    "Plan",
    "Profiling",
    "QtoolError",
    "Reading",
    "Report",
    "Result",
    "RuntimeFailure",
    "Survey",
    "Sweep",
    "UsageError",
    "advise",
    "analyze",
    "bench",
    "calibrate",
    "compare",
    "compare_folders",
    "difference",
    "dry_run",
    "inspect",
    "profile",
    "quantize",
    "quantize_folder",
    "read_report",
    "rejudge",
    "survey",
    "sweep",
    "tune",
    "tune_table",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qtool' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
