"""A failed allocation is the environment's fault (exit 5), never the model's or the samples'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from qtool.errors import EnvironmentFailure, ModelError, RuntimeFailure
from qtool.graph import load
from qtool.graph.prepare.opset import upgrade_opset
from qtool.runtime import providers, session
from tests.graphs import model, node, samples

ALLOCATION = [
    MemoryError(),
    RuntimeError("std::bad_alloc"),
    RuntimeError(
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 9"
    ),
]


def net() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], {"x": (2, 3)}, ["y"], opset=11)


def failing(error: BaseException) -> Any:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize("error", ALLOCATION, ids=["python", "native", "runtime"])
def test_everywhere_a_model_goes(error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(net(), path)
    works = {
        "ort.InferenceSession": (lambda: session.Session(path), providers.ort, "InferenceSession"),
        "onnx.load": (lambda: load.load(path), onnx, "load"),
        "checker": (lambda: load.load(path), onnx.checker, "check_model"),
        "from_proto": (lambda: load.from_proto(net()), ir, "from_proto"),
        "converter": (lambda: upgrade_opset(ir.from_proto(net())), onnx.version_converter, "convert_version"),
    }
    for name, (work, owner, attribute) in works.items():
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, failing(error))
            with pytest.raises(EnvironmentFailure, match="out of memory") as caught:
                work()
        assert caught.value.exit_code == 5, name
        assert caught.value.hint


@pytest.mark.parametrize("error", ALLOCATION, ids=["python", "native", "runtime"])
def test_while_a_model_runs(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = session.Session(net().SerializeToString())

    class Inner:
        run = staticmethod(failing(error))

    monkeypatch.setattr(opened, "_session", Inner())
    with pytest.raises(EnvironmentFailure, match="out of memory while onnxruntime runs it"):
        opened.run(samples(1, x=(2, 3))[0])


def test_other_errors_keep_their_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = session.Session(net().SerializeToString())
    with pytest.raises(RuntimeFailure):
        opened.run({})
    with pytest.raises(ModelError):
        session.Session(b"no model")
