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
    from qtool.benching import Bench, Benching
    from qtool.benching import bench_models as bench
    from qtool.calibration import Calibrating
    from qtool.calibration import calibrate_model as calibrate
    from qtool.comparing import compare_models as compare
    from qtool.data.reading import Reading
    from qtool.errors import (
        DataError,
        EnvironmentFailure,
        ModelError,
        QtoolError,
        RuntimeFailure,
        UsageError,
    )
    from qtool.inspection.change import difference
    from qtool.inspection.model import Difference, Inspection
    from qtool.inspection.read import inspect_model as inspect
    from qtool.options import Comparing, Options, Result
    from qtool.pipeline import dry_run, quantize
    from qtool.plan.costs_file import CostTable
    from qtool.plan.model import Plan
    from qtool.profiling import Profiling
    from qtool.profiling import profile_machine as profile
    from qtool.report.model import Report
    from qtool.report.saved import read_report, rejudge
    from qtool.surveying import Survey, survey
    from qtool.tuning import tune

# public name -> (module, name there)
_PUBLIC = {
    "Bench": ("qtool.benching", "Bench"),
    "Benching": ("qtool.benching", "Benching"),
    "Calibrating": ("qtool.calibration", "Calibrating"),
    "Comparing": ("qtool.options", "Comparing"),
    "CostTable": ("qtool.plan.costs_file", "CostTable"),
    "Difference": ("qtool.inspection.model", "Difference"),
    "Inspection": ("qtool.inspection.model", "Inspection"),
    "Options": ("qtool.options", "Options"),
    "Plan": ("qtool.plan.model", "Plan"),
    "Profiling": ("qtool.profiling", "Profiling"),
    "Reading": ("qtool.data.reading", "Reading"),
    "Report": ("qtool.report.model", "Report"),
    "Result": ("qtool.options", "Result"),
    "Survey": ("qtool.surveying", "Survey"),
    "bench": ("qtool.benching", "bench_models"),
    "compare": ("qtool.comparing", "compare_models"),
    "dry_run": ("qtool.pipeline", "dry_run"),
    "difference": ("qtool.inspection.change", "difference"),
    "inspect": ("qtool.inspection.read", "inspect_model"),
    "profile": ("qtool.profiling", "profile_machine"),
    "quantize": ("qtool.pipeline", "quantize"),
    "read_report": ("qtool.report.saved", "read_report"),
    "rejudge": ("qtool.report.saved", "rejudge"),
    "survey": ("qtool.surveying", "survey"),
    "tune": ("qtool.tuning", "tune"),
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
    "Bench",
    "Benching",
    "Calibrating",
    "Comparing",
    "CostTable",
    "DataError",
    "Difference",
    "EnvironmentFailure",
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
    "UsageError",
    "bench",
    "calibrate",
    "compare",
    "difference",
    "dry_run",
    "inspect",
    "profile",
    "quantize",
    "read_report",
    "rejudge",
    "survey",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "calibrate":  # a package that can be called: see there
        return import_module("qtool.calibrate")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qtool' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, "calibrate"})
