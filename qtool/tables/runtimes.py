"""The runtimes that run and time models: a row a runtime. `--runtime` names one; each target has its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class Tells(Enum):
    """The most that can be measured of a model that runs."""

    NODES = "the time of each node"
    INFERENCES = "the time of a whole inference"
    OUTPUTS = "its outputs alone: the speed of a simulator means nothing"


@dataclass(frozen=True)
class Precision:
    """A precision in which a runtime computes float nodes.

    Args:
        summary: for the help.
        properties: of the runtime, which select it.
        capability: its name in the runtime's list of what the device can do; '': every device has it.
    """

    summary: str
    properties: Mapping[str, str] = field(default_factory=dict)
    capability: str = ""


@dataclass(frozen=True, eq=False)
class Runtime:
    """One runtime.

    Args:
        title: its name in messages.
        summary: for the help.
        provider: its execution provider in onnxruntime.
        tells: the most that can be measured in it.
        precisions: of float nodes; the first one is the default.
        package: the wheel with the provider, for pip; '': onnxruntime itself has it.
        module: the module of that wheel, whose `get_library_path` returns the provider's library.
        library: the runtime's own package for pip, and its module; used where the provider does not take this
            machine's processor (runtime/openvino.py). '': there is none.
        vendor: of the x86 processors that the provider takes, as the system names it; '': of all.
        options: of the provider.
        paths: provider option -> the function of `module` that returns its value.
        properties: of the runtime.
        threads: the property of the number of threads; '': it has none.
        nested: the provider option that holds the properties, as JSON under the name of the device; '': the
            properties are options.
        device: that name.
        capabilities: the entry of a device's metadata with what it can do.
        static: it takes static shapes only.
        session: entries of the session's configuration.
        opset: the highest that it takes; 0: that of onnxruntime.
    """

    name: str
    title: str
    summary: str
    provider: str
    tells: Tells
    precisions: Mapping[str, Precision]
    package: str = ""
    module: str = ""
    library: str = ""
    vendor: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    threads: str = ""
    nested: str = ""
    device: str = ""
    capabilities: str = ""
    static: bool = False
    session: Mapping[str, str] = field(default_factory=dict)
    opset: int = 0

    @property
    def default(self) -> str:
        """The precision that it is opened with, unless another one is named."""
        return next(iter(self.precisions))


_FLOAT = {"f32": Precision("float32")}
DEFAULT = "onnxruntime"
RUNTIMES: dict[str, Runtime] = {
    r.name: r
    for r in (
        Runtime(
            DEFAULT, "onnxruntime", "onnxruntime's CPU provider", "CPUExecutionProvider", Tells.NODES, _FLOAT
        ),
        # Properties, since the provider ignores num_of_threads, and a bare precision (plugin 1.8.1, OpenVINO
        # 2026.4, measured by CPU time: docs/targets.md). Without a hint a CPU with bf16 computes in it.
        Runtime(
            "openvino",
            "OpenVINO",
            "OpenVINO on a CPU",
            "OpenVINOExecutionProvider",
            Tells.INFERENCES,
            {
                "f32": Precision("float32", {"INFERENCE_PRECISION_HINT": "f32"}),
                "bf16": Precision("bfloat16", {"INFERENCE_PRECISION_HINT": "bf16"}, "BF16"),
                "f16": Precision("float16", {"INFERENCE_PRECISION_HINT": "f16"}, "FP16"),
            },
            package="onnxruntime-ep-openvino",
            module="onnxruntime_ep_openvino",
            library="openvino",
            vendor="GenuineIntel",
            properties={"NUM_STREAMS": "1"},
            threads="INFERENCE_NUM_THREADS",
            nested="load_config",
            device="CPU",
            capabilities="OPTIMIZATION_CAPABILITIES",
        ),
        # The Hexagon processor of a Snapdragon 8 Gen 2. Some graphs can't be finalized without
        # soc_model (onnxruntime-qnn 2.7.0). Without fallback a node that it lacks is an error.
        Runtime(
            "qnn",
            "QNN",
            "the simulator of Qualcomm's NPU on an x86 CPU; it has no speed",
            "QNNExecutionProvider",
            Tells.OUTPUTS,
            {"f16": Precision("float16")},
            package="onnxruntime-qnn",
            module="onnxruntime_qnn",
            options={"htp_arch": "73", "soc_model": "43", "offload_graph_io_quantization": "0"},
            paths={"backend_path": "get_qnn_htp_path"},
            static=True,
            session={"session.disable_cpu_ep_fallback": "1"},
        ),
    )
}
