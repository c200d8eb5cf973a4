"""Models whose weights lie in a side file: they are quantized as they are saved, to the same file as any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

import qtool
from qtool.errors import UsageError
from qtool.graph import save
from qtool.options import Options
from qtool.plan.model import Site
from qtool.rewrite.writer import RoundedWeights
from qtool.runtime.tempdirs import locked

MODES: dict[str, dict[str, Any]] = {
    "8 bits": {"mode": "weight-only"},
    "4 bits": {"mode": "weight-only", "bits": 4, "block": 32},
    "4 bits, packed": {"mode": "weight-only", "bits": 4, "block": 32, "prefer": "speed"},
    "8 bits, packed": {"mode": "weight-only", "bits": 8, "block": 32, "prefer": "speed"},
    "4 bits, generic": {"mode": "weight-only", "bits": 4, "block": 32, "target": "generic"},
    "dynamic": {"mode": "dynamic"},
    "dynamic, generic": {"mode": "dynamic", "target": "generic"},
    "fp16": {"mode": "fp16"},
}


def table_and_products(path: Path, *, side_file: bool) -> Path:
    """A Gather, a MatMul and a Gemm with transB, of weights [256, 64], [64, 128] and [96, 128]."""
    rng = np.random.default_rng(3)
    arrays = {
        "table": rng.normal(size=(256, 64)),
        "w": rng.normal(size=(64, 128)),
        "v": rng.normal(size=(96, 128)),
        "bias": rng.normal(size=96),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["x"]),
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Gemm", ["h", "v", "bias"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    if side_file:
        external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, path)
    return path


def tensors(path: Path) -> dict[str, bytes]:
    graph = onnx.load(path).graph
    return {t.name: numpy_helper.to_array(t).tobytes() for t in graph.initializer}


@pytest.mark.parametrize("options", MODES.values(), ids=MODES)
def test_a_model_with_a_side_file_gets_the_tensors_of_one_without(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = table_and_products(tmp_path / "inline.onnx", side_file=False)
    external = table_and_products(tmp_path / "external.onnx", side_file=True)
    qtool.quantize(inline, tmp_path / "a.onnx", Options(**options))
    monkeypatch.setattr(save, "STREAMED_BYTES", 16)
    done = qtool.quantize(external, tmp_path / "b.onnx", Options(**options))
    assert tensors(tmp_path / "b.onnx") == tensors(tmp_path / "a.onnx")
    assert len(list(tmp_path.glob("b.onnx.*.data"))) == 1
    replayed = qtool.quantize(external, tmp_path / "c.onnx", Options(plan=done.plan))
    assert replayed.plan == done.plan and tensors(tmp_path / "c.onnx") == tensors(tmp_path / "b.onnx")


def test_the_plan_of_a_side_file_holds_no_scale_that_follows_from_its_weight(tmp_path: Path) -> None:
    model = table_and_products(tmp_path / "m.onnx", side_file=True)
    plan = qtool.quantize(model, tmp_path / "q.onnx", Options(mode="weight-only", bits=4)).plan
    assert plan.resolved and all(site.qparams is None for site in plan.sites)


def rounded_weights(monkeypatch: pytest.MonkeyPatch, end: int = -1) -> list[str]:
    """Return the weights that are rounded from now on, one at a time, up to an interrupt.

    Args:
        end: the number of them before the interrupt; -1: none comes.
    """
    rounded: list[str] = []
    of = RoundedWeights.of

    def watch(self: RoundedWeights, site: Site, tensor: ir.TensorProtocol) -> Any:
        if len(rounded) == end:
            raise KeyboardInterrupt
        rounded.append(site.value)
        return of(self, site, tensor)

    monkeypatch.setattr(RoundedWeights, "of", watch)
    monkeypatch.setattr("qtool.runtime.threads.usable_cores", lambda: 1)
    return rounded


def test_an_interrupted_write_goes_on_behind_the_finished_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a crash has torn the end of the file, which then holds what no line vouches for."""
    model = table_and_products(tmp_path / "m.onnx", side_file=True)
    monkeypatch.setattr(save, "STREAMED_BYTES", 16)
    options = Options(mode="weight-only", bits=4, block=32, checkpoint=tmp_path / "run.json")
    output, part = tmp_path / "q.onnx", tmp_path / "q.onnx.part"
    with monkeypatch.context() as patched:
        every = rounded_weights(patched)
        qtool.quantize(model, tmp_path / "a.onnx", replace(options, checkpoint=None))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        rounded_weights(patched, end=4)
        qtool.quantize(model, output, options)
    assert part.is_dir() and not output.exists()
    with (part / "side").open("ab") as stream:
        stream.write(b"torn")
    resumed = replace(options, resume=True, plan=qtool.Plan.load(tmp_path / "run.json"))
    with monkeypatch.context() as patched:
        rest = rounded_weights(patched)
        qtool.quantize(model, output, resumed)
    assert rest == every[4:]
    written = [next(tmp_path.glob(f"{stem}.onnx.*.data")).read_bytes() for stem in "aq"]
    assert written[0] == written[1]
    assert tensors(output) == tensors(tmp_path / "a.onnx")
    assert not part.exists() and not (tmp_path / "run.json").exists()


def test_the_side_file_of_a_run_that_still_writes_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = table_and_products(tmp_path / "m.onnx", side_file=True)
    monkeypatch.setattr(save, "STREAMED_BYTES", 16)
    part = tmp_path / "q.onnx.part"
    part.mkdir()
    (part / "side").write_bytes(b"half")
    options = Options(mode="weight-only", checkpoint=tmp_path / "run.json")
    with locked(part), pytest.raises(UsageError, match="another run writes in"):
        qtool.quantize(model, tmp_path / "q.onnx", options)
    assert (part / "side").read_bytes() == b"half"


def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path) -> None:
    model = table_and_products(tmp_path / "m.onnx", side_file=True)
    plan = qtool.quantize(model, tmp_path / "a.onnx", Options(mode="weight-only", bits=4)).plan
    with pytest.raises(UsageError, match="its bits is 4, not 8"):
        qtool.quantize(model, tmp_path / "b.onnx", Options(mode="weight-only", plan=plan, resume=True))
