"""The models of a bench, each in a worker process of its own (bench_worker.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

from qtool.data.samples import Sample
from qtool.errors import ModelError
from qtool.evaluate.bench_worker import write_samples
from qtool.graph.load import Source
from qtool.runtime.trace import NodeTime, OpTime, OpTimes
from qtool.runtime.worker_process import WorkerProcess

_WORKER = "qtool.evaluate.bench_worker:BenchWorker"


@dataclass(frozen=True)
class Memory:
    """Resident bytes of the model's process.

    Args:
        idle: before the model was opened, with the runtime and the samples.
        loaded: when it was open.
        peak: the most until it had run on every sample.
    """

    idle: int
    loaded: int
    peak: int


class BenchModel:
    """A model and its worker process: a TimedModel for `run_rounds`.

    Args:
        source: the model.
        runtime: 'NAME:PRECISION'.
        arguments: of BenchWorker, before the runtime.
    """

    def __init__(self, source: Source, runtime: str, arguments: Sequence[Any]) -> None:
        self.source = source
        self.runtime = runtime
        self._arguments = arguments
        self._process: WorkerProcess | None = None
        self.memory: Memory | None = None

    def start(self) -> None:
        """Start a new process in place of the last one."""
        self.close()
        self._process = WorkerProcess(self.source.name, _WORKER, *self._arguments, self.runtime)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def open(self, samples: int) -> float:
        """Open the model anew and warm it up on the first samples; return the seconds of opening it."""
        doing = "the runtime opens it, and runs it"
        seconds, memory = self._call("open", samples, doing=doing, blame=ModelError)
        if self.memory is None and memory is not None:  # the first time it runs on every sample
            self.memory = Memory(*memory)
        return float(seconds)

    def time(self, first: int, samples: int, repeats: int) -> list[float]:
        """Return the seconds of each inference, of some samples from `first` on, `repeats` times."""
        seconds: list[float] = self._call("time", first, samples, repeats)
        return seconds

    def op_times(self, folder: Path) -> OpTimes:
        """Return the time of each op.

        Args:
            folder: for the runtime's trace.
        """
        nodes = sum(1 for _ in self.source.model.graph.all_nodes())
        fields = self._call("op_times", str(folder), nodes)
        ops, slowest = fields.pop("ops"), fields.pop("slowest")
        return OpTimes(
            **fields, ops=tuple(OpTime(**op) for op in ops), slowest=tuple(NodeTime(**n) for n in slowest)
        )

    def _call(self, method: str, *arguments: Any, **context: Any) -> Any:
        if self._process is None:
            raise RuntimeError("the process was not started")
        return self._process.call(method, *arguments, **context)


def worker_models(
    sources: Sequence[Source],
    runtimes: Sequence[str],
    samples: Sequence[Sample],
    data: str,
    threads: int,
    folder: Path,
) -> list[BenchModel]:
    """Return the models of a bench; their processes are not started yet.

    Args:
        sources: the models.
        runtimes: of each, 'NAME:PRECISION'.
        samples: to run them on.
        data: the name of the samples' source, for errors.
        threads: of the runtime.
        folder: temporary, for the samples and for models that are not files.
    """
    file, idle = folder / "samples.npz", folder / "idle.onnx"
    names = write_samples(file, samples)
    idle.write_bytes(_idle_model())
    models = []
    for number, (source, runtime) in enumerate(zip(sources, runtimes, strict=True)):
        path = source.path or folder / f"{number}.onnx"
        if source.path is None:
            path.write_bytes(source.raw)
        arguments = (str(path), source.name, threads, str(file), names, data, str(idle))
        models.append(BenchModel(source, runtime, arguments))
    return models


def _idle_model() -> bytes:
    """A model of one Identity node: memory is measured from when the runtime itself is loaded."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "idle", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized
