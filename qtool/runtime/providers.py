"""Open a model in the runtime of a row of tables/runtimes.py: onnxruntime, a plugin of it, or OpenVINO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from qtool.errors import EnvironmentFailure, UsageError, did_you_mean, printable
from qtool.runtime import cpu
from qtool.runtime.library import ort
from qtool.runtime.openvino import OpenVinoSession, capabilities
from qtool.tables.runtimes import DEFAULT, RUNTIMES, Runtime

# The metadata of a model that name the runtime and the precision that it was made for.
RUNTIME_KEY = "qtool.runtime"
# Refused nodes that an error names.
_SHOWN = 8


def runtime_of(text: str) -> tuple[Runtime, str]:
    """Return the row and the precision of 'NAME' or 'NAME:PRECISION'.

    Raises:
        UsageError: there is none of that name.
    """
    name, colon, precision = text.partition(":")
    if name not in RUNTIMES:
        hint = did_you_mean(name, RUNTIMES) or f"runtimes: {', '.join(RUNTIMES)}"
        raise UsageError(f"no runtime '{printable(name, 40)}'", hint)
    row = RUNTIMES[name]
    if colon and precision not in row.precisions:
        hint = did_you_mean(precision, row.precisions) or f"precisions: {', '.join(row.precisions)}"
        raise UsageError(f"{row.title} has no precision '{printable(precision, 40)}'", hint)
    return row, precision or row.default


def as_made_for(runtime: str, metadata: Mapping[str, str]) -> str:
    """Return a runtime, in the precision that the metadata of a model name for it, unless one is given.

    Args:
        runtime: 'NAME' or 'NAME:PRECISION'; '': onnxruntime.
        metadata: of the model.
    """
    row, precision = runtime_of(runtime or DEFAULT)
    made = metadata.get(RUNTIME_KEY, "").partition(":")
    if ":" not in runtime and made[0] == row.name and made[2] in row.precisions:
        precision = made[2]
    return row.name if len(row.precisions) == 1 else f"{row.name}:{precision}"


def open_in(runtime: str, source: str | bytes, options: Any, threads: int) -> Any:
    """Open a model; return an InferenceSession, or an object with the same methods.

    Args:
        runtime: 'NAME' or 'NAME:PRECISION'.
        source: a path, or the bytes of a model.
        options: the SessionOptions.
        threads: 0: the runtime's choice.

    Raises:
        EnvironmentFailure: the runtime is not installed, or does not take this machine's processor.
    """
    row, precision = runtime_of(runtime)
    if not row.package:
        return ort.InferenceSession(source, options, providers=[row.provider])
    check_runtime(runtime)
    if not (devices := _devices(row)):
        return OpenVinoSession(source, row.device, properties_of(row, precision, threads))
    paths = {option: getattr(import_module(row.module), name)() for option, name in row.paths.items()}
    options.add_provider_for_devices(devices, {**fixed_options(row, precision, threads), **paths})
    for key, value in row.session.items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(source, options)
    except Exception as error:
        if not (nodes := _refused(row, source)):
            raise
        shown = ", ".join(f"{op} '{printable(name, 60)}'" for op, name in nodes[:_SHOWN])
        more = f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else ""
        raise RuntimeError(f"it does not run {shown}{more}") from error


def _refused(row: Runtime, source: str | bytes) -> list[tuple[str, str]]:
    """Return the op and name of each node that a provider would leave to the CPU."""
    if not row.session:
        return []
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    paths = {option: getattr(import_module(row.module), name)() for option, name in row.paths.items()}
    options.add_provider_for_devices(_devices(row), {**fixed_options(row, row.default, 0), **paths})
    try:
        parts = ort.InferenceSession(source, options).get_provider_graph_assignment_info()
    except Exception:  # it can't be opened at all, and the first error says why
        return []
    left = [node for part in parts if part.ep_name != row.provider for node in part.get_nodes()]
    return sorted((node.op_type, node.name) for node in left)


def check_runtime(runtime: str) -> None:
    """Check that a runtime opens here, in the precision.

    Raises:
        EnvironmentFailure: it is not installed, or does not take this machine's processor or the precision.
    """
    row, precision = runtime_of(runtime)
    if not _devices(row) and not _has_library(row):
        if not find_spec(row.module):
            foreign = row.vendor and row.vendor != cpu.facts().get("vendor_id", row.vendor)
            package = row.library if foreign else row.package
            raise EnvironmentFailure(
                f"runtime {row.name}: {package} is not installed", f"pip install {package}"
            )
        hint = f"pip install {row.library}" if row.library else "another machine"
        raise EnvironmentFailure(
            f"runtime {row.name}: {row.provider} takes no processor of this machine", hint
        )
    if precision not in precisions_here(row):
        able = ", ".join(precisions_here(row))
        raise EnvironmentFailure(
            f"runtime {row.name}: this machine's processor does not compute in {precision}",
            f"--runtime {row.name}, in {able}",
        )


def opens(runtime: str) -> bool:
    """Whether a runtime is installed, and takes this machine's processor."""
    try:
        check_runtime(runtime)
    except EnvironmentFailure:
        return False
    return True


def precisions_here(row: Runtime) -> list[str]:
    """Return the precisions that this machine's processor computes in; the runtime must be installed."""
    if not row.capabilities:
        return list(row.precisions)
    devices = _devices(row)
    text = devices[0].ep_metadata[row.capabilities] if devices else capabilities(row.device)
    able = text.split()
    return [n for n, p in row.precisions.items() if not p.capability or p.capability in able]


def properties_of(row: Runtime, precision: str, threads: int) -> dict[str, str]:
    """Return the properties of a runtime for a precision and a number of threads (0: its choice)."""
    number = {row.threads: str(threads)} if row.threads and threads else {}
    return {**row.properties, **number, **row.precisions[precision].properties}


def fixed_options(row: Runtime, precision: str, threads: int) -> dict[str, str]:
    """Return the options of a runtime's provider that are the same on any machine: no paths."""
    properties = properties_of(row, precision, threads)
    if row.nested:
        properties = {row.nested: json.dumps({row.device: properties})}
    return {**row.options, **properties}


def opening_lines(runtime: str, model: str, threads: int = 0) -> tuple[str, ...]:
    """Return the lines of Python that open a model as `open_in` does."""
    row, precision = runtime_of(runtime)
    if row.package and not _devices(row):
        properties = properties_of(row, precision, threads)
        return (
            f"import {row.library}",
            f'model = {row.library}.compile_model("{model}", "{row.device}", {json.dumps(properties)})',
        )
    if not row.package:
        return ("import onnxruntime", f'session = onnxruntime.InferenceSession("{model}")')
    fixed = fixed_options(row, precision, threads)
    paths = "".join(f', "{option}": {row.module}.{name}()' for option, name in row.paths.items())
    return (
        f"import onnxruntime, {row.module}",
        f'onnxruntime.register_execution_provider_library("{row.provider}", {row.module}.get_library_path())',
        f'devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == "{row.provider}"]',
        "options = onnxruntime.SessionOptions()",
        f"options.add_provider_for_devices(devices, {json.dumps(fixed)[:-1]}{paths}}})",
        f'session = onnxruntime.InferenceSession("{model}", options)',
    )


def _has_library(row: Runtime) -> bool:
    return not row.package or bool(row.library and find_spec(row.library))


@cache
def _devices(row: Runtime) -> Sequence[Any]:
    """The devices of a plugin; none where it is not installed, or takes no processor of this machine.

    The library is registered once in each process.
    """
    if not row.package or not find_spec(row.module):
        return ()
    try:
        ort.register_execution_provider_library(row.provider, import_module(row.module).get_library_path())
    except Exception as error:  # onnxruntime raises unrelated types here
        raise EnvironmentFailure(
            f"runtime {row.name}: {row.package} can't be loaded: {printable(str(error))}",
            f"pip install --force-reinstall {row.package}",
        ) from error
    return tuple(d for d in ort.get_ep_devices() if d.ep_name == row.provider)
