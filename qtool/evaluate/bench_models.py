"""The models of a bench, each in a worker process of its own (bench_worker.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from qtool.data.samples import Sample
from qtool.errors import ModelError
from qtool.evaluate.bench_worker import keep_samples
from qtool.evaluate.profile import NodeTime, OpTime, Profile
from qtool.graph.load import Source
from qtool.runtime.worker_process import WorkerProcess

_STAND = "qtool.evaluate.bench_worker:BenchWorker"


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the model's process.

    Args:
        idle: before it was opened, with the runtime and the samples.
        loaded: when it was open.
        peak: the most until it had run on every sample.
    """

    idle: int
    loaded: int
    peak: int


class BenchModel:
    """A model and its process, as run_rounds wants it.

    Args:
        source: the model.
        arguments: of evaluate/bench_worker.py's BenchWorker.
    """

    def __init__(self, source: Source, arguments: Sequence[Any]) -> None:
        self.source = source
        self._arguments = arguments
        self._attendant: WorkerProcess | None = None
        self.memory: Memory | None = None

    def start(self) -> None:
        self.close()
        self._attendant = WorkerProcess(self.source.name, _STAND, *self._arguments)

    def close(self) -> None:
        if self._attendant is not None:
            self._attendant.close()

    def open(self, samples: int) -> float:
        doing = "onnxruntime opens it, and runs it"
        seconds: float = self._call("open", samples, doing=doing, blame=ModelError)
        if self.memory is None and (found := self._call("memory")):  # of the first time: on all samples
            self.memory = Memory(**found)
        return seconds

    def turn(self, first: int, samples: int, repeats: int) -> list[float]:
        seconds: list[float] = self._call("turn", first, samples, repeats)
        return seconds

    def profile(self, folder: Path) -> Profile:
        nodes = sum(1 for _ in self.source.model.graph.all_nodes())
        found = self._call("profile", str(folder), nodes)
        parts: dict[str, Any] = {
            "ops": tuple(OpTime(**op) for op in found.pop("ops")),
            "slowest": tuple(NodeTime(**node) for node in found.pop("slowest")),
        }
        return Profile(**found, **parts)

    def _call(self, method: str, *arguments: Any, **how: Any) -> Any:
        if self._attendant is None:
            raise RuntimeError("asked before it was started")
        return self._attendant.call(method, *arguments, **how)


def start_models(
    sources: Sequence[Source], samples: Sequence[Sample], data: str, threads: int, folder: Path
) -> list[BenchModel]:
    file, idle = folder / "samples.npz", folder / "idle.onnx"
    names = keep_samples(file, samples)
    idle.write_bytes(_idle_model())
    stands = []
    for number, source in enumerate(sources):
        path = source.path or folder / f"{number}.onnx"
        if source.path is None:
            path.write_bytes(source.raw)
        arguments = (str(path), source.name, threads, str(file), names, data, str(idle))
        stands.append(BenchModel(source, arguments))
    return stands


def _idle_model() -> bytes:
    """One node that does nothing."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "idle", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = made.SerializeToString()
    return serialized
