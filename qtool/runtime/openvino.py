"""OpenVINO through its own package, with the methods of an InferenceSession that qtool uses.

onnxruntime's plugin takes Intel processors only (1.8.1); OpenVINO itself runs on others as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

# Lines of its errors that name its source files.
_NOISE = ("Exception from", "Check '", "FrontEnd API failed", "Summary:", "To facilitate")


@cache
def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which would send an event from a process of its own at once."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # importing it fails: a stub is used
    try:
        return import_module("openvino")
    finally:
        del sys.modules["openvino_telemetry"]


def capabilities(device: str) -> str:
    """Return the words for what a device can do."""
    return " ".join(_openvino().Core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


class OpenVinoSession:
    """A compiled model.

    Args:
        source: a path, or the bytes of a model.
        device: of OpenVINO.
        properties: of the device.

    Raises:
        RuntimeError: OpenVINO refuses the model.
    """

    def __init__(self, source: str | bytes, device: str, properties: Mapping[str, str]) -> None:
        core = _openvino().Core()
        try:
            compiled = core.compile_model(core.read_model(source), device, dict(properties))
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line and not line.startswith(_NOISE)]
            raise RuntimeError(" ".join(lines) or str(error)) from error
        self._request = compiled.create_infer_request()
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        model = onnx.ModelProto.FromString(data)
        constants = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [_port(value) for value in model.graph.input if value.name not in constants]
        self._outputs = [_port(value) for value in model.graph.output]
        self._metadata = {prop.key: prop.value for prop in model.metadata_props}

    def get_inputs(self) -> list[SimpleNamespace]:
        """Return name, type and shape of each input, as onnxruntime describes them."""
        return self._inputs

    def get_outputs(self) -> list[SimpleNamespace]:
        """Return the same of each output."""
        return self._outputs

    def get_modelmeta(self) -> SimpleNamespace:
        """Return the metadata of the file."""
        return SimpleNamespace(custom_metadata_map=self._metadata)

    def run(self, outputs: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """Return the named outputs; None: all."""
        arrays = list(self._request.infer(dict(inputs), share_inputs=True).values())
        if outputs is None:
            return arrays
        by_name = dict(zip((port.name for port in self._outputs), arrays, strict=True))
        return [by_name[name] for name in outputs]


def _port(value: onnx.ValueInfoProto) -> SimpleNamespace:
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    return SimpleNamespace(name=value.name, type=f"tensor({kind})", shape=list(_sizes(tensor.shape.dim)))


def _sizes(dims: Iterable[onnx.TensorShapeProto.Dimension]) -> Iterable[int | str | None]:
    for dim in dims:
        yield dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
