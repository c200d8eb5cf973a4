"""Runtimes as rows: names, what is missing, and the lines that open them. tests/extras runs the plugins."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from qtool.errors import EnvironmentFailure, UsageError
from qtool.runtime.providers import (
    as_made_for,
    check_runtime,
    fixed_options,
    opening_lines,
    opens,
    runtime_of,
)
from qtool.runtime.session import Session
from qtool.tables.runtimes import DEFAULT, RUNTIMES
from tests.graphs import SAMPLE_MODELS

MISSING = [name for name, row in RUNTIMES.items() if row.module and not find_spec(row.module)]


@pytest.mark.parametrize("text", ["openvin", "", "openvino:", "openvino:bf61", "onnxruntime:bf16"])
def test_an_unknown_name_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        runtime_of(text)
    assert caught.value.hint


@pytest.mark.parametrize("name", MISSING)
def test_a_plugin_that_is_not_installed_is_named_with_its_pip_command(name: str) -> None:
    assert not opens(name)
    for work in (
        lambda: check_runtime(name),
        lambda: Session(SAMPLE_MODELS / "cnn/model.onnx", runtime=name),
    ):
        with pytest.raises(EnvironmentFailure) as caught:
            work()
        package = caught.value.hint.removeprefix("pip install ")
        assert package in (RUNTIMES[name].package, RUNTIMES[name].library)  # by the processor's vendor
        assert package in caught.value.message


@pytest.mark.parametrize(
    ("runtime", "metadata", "result"),
    [
        ("", {}, "onnxruntime"),
        ("", {"qtool.runtime": "openvino:bf16"}, "onnxruntime"),
        ("openvino", {}, "openvino:f32"),
        ("openvino", {"qtool.runtime": "openvino:bf16"}, "openvino:bf16"),
        ("openvino:f32", {"qtool.runtime": "openvino:bf16"}, "openvino:f32"),
        ("openvino", {"qtool.runtime": "openvino:f8"}, "openvino:f32"),
    ],
)
def test_a_model_is_opened_in_the_precision_that_it_was_made_for(
    runtime: str, metadata: dict[str, str], result: str
) -> None:
    assert as_made_for(runtime, metadata) == result


def test_options_name_the_precision_and_the_threads() -> None:
    for row in RUNTIMES.values():
        for precision, details in row.precisions.items():
            text = " ".join(fixed_options(row, precision, threads=977).values())
            assert all(value in text for value in details.properties.values())
            assert ("977" in text) == bool(row.threads)


def test_the_lines_that_open_a_model_run() -> None:
    path = SAMPLE_MODELS / "cnn/model.onnx"
    names: dict[str, object] = {}
    exec("\n".join(opening_lines(DEFAULT, str(path))), names)
    assert names["session"]
