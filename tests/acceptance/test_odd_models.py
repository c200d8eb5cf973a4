"""Models that look hostile, and are fine: mended with a warning, or quantized in good time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.acceptance.hostile import COMMANDS, beside, custom_op, net, plain, put
from tests.cli.program import run
from tests.graphs import SAMPLE_MODELS, model, node, weights
from tests.tiers import sample


def test_a_model_is_a_symbolic_link_with_its_data_where_the_link_is(model_folder: Path) -> None:
    (model_folder / "blobs").mkdir()
    put(model_folder / "blobs", beside(model_folder))
    (model_folder / "m.onnx").symlink_to("blobs/m.onnx")
    done = run(*COMMANDS["weights"], cwd=model_folder)
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(str(model_folder / "q.onnx"), full_check=True)


MENDED: dict[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
    "an input without a shape": (lambda p: p.graph.input[0].type.tensor_type.ClearField("shape"), "input 'x' has no shape"),
    "an output without a shape": (lambda p: p.graph.output[0].type.tensor_type.ClearField("shape"), "output 'y' has no shape"),
    "an output without a type": (lambda p: p.graph.output[0].ClearField("type"), "output 'y' has no shape"),
    "a stale output": (lambda p: p.graph.output[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 7), "output 'y' has another shape"),
    "a stale inner shape": (lambda p: p.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [9, 9, 9])), "contradict"),
    "a size below 0": (lambda p: p.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", -1), "below 0"),
    "a missing import": (lambda p: p.graph.node[1].CopyFrom(node("Gelu", ["h"], ["y"], domain="com.microsoft")), "does not import com.microsoft"),
}  # fmt: skip


@pytest.mark.parametrize("name", MENDED)
@pytest.mark.parametrize("side_file", [False, True], ids=["", "external"])
def test_a_fault_that_the_runtime_accepts_is_mended_with_a_warning(
    name: str, side_file: bool, model_folder: Path
) -> None:
    edit, says = MENDED[name]
    proto = beside(model_folder) if side_file else net()
    edit(proto)
    put(model_folder, proto)
    with pytest.raises((onnx.checker.ValidationError, onnx.shape_inference.InferenceError)):
        onnx.checker.check_model(str(model_folder / "m.onnx"), full_check=True)
    done = run(*COMMANDS["weights"], cwd=model_folder)
    assert done.returncode == 0, done.stderr
    assert re.search(f"^warning: .*{says}", done.stderr, re.MULTILINE), done.stderr
    onnx.checker.check_model(str(model_folder / "q.onnx"), full_check=True)


def test_samples_fit_an_input_without_a_shape(model_folder: Path) -> None:
    proto = net()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    put(model_folder, proto)
    done = run("compare", "m.onnx", "m.onnx", "--data", "calib", cwd=model_folder)
    assert done.returncode == 0, done.stderr


def test_a_custom_op_stays_float_for_a_target_that_is_not_here(model_folder: Path) -> None:
    custom_op(model_folder)
    done = run(
        "quantize",
        "m.onnx",
        "-o",
        "q.onnx",
        "--mode",
        "weight-only",
        "--target",
        "generic",
        "-v",
        cwd=model_folder,
    )
    assert done.returncode == 0, done.stderr
    assert re.search("my.own::Relu", done.stdout)
    assert [n.domain for n in onnx.load(model_folder / "q.onnx").graph.node if n.domain] == ["my.own"]


def test_control_characters_in_names_are_replaced(model_folder: Path) -> None:
    proto = net()
    for one in proto.graph.node:
        one.name = f"{one.name}\x1b[2J\r\n[red]{'n' * 500}\u202e"
    put(model_folder, proto)
    for command in (
        ["quantize", "m.onnx", "--dry-run", "-v", "--mode", "dynamic"],
        ["inspect", "m.onnx", "-v"],
        ["inspect", "m.onnx", "--json"],
    ):
        done = run(*command, cwd=model_folder)
        assert done.returncode == 0, done.stderr
        assert (done.stdout + done.stderr).replace("\n", "").isprintable()


def chain(length: int, *ops: str) -> onnx.ModelProto:
    nodes = [
        node(
            ops[i % len(ops)],
            [f"v{i}" if i else "x", *(["w"] if ops[i % len(ops)] in ("MatMul", "Add") else [])],
            [f"v{i + 1}"],
        )
        for i in range(length)
    ]
    return model(nodes, {"x": (4, 8)}, {f"v{length}": (4, 8)}, {"w": weights(8, 8)[:8]})


@pytest.mark.nightly
@pytest.mark.parametrize("mode", sample(["static", "dynamic", "weight-only", "fp16"], 4))
def test_time_grows_linearly_with_the_length_of_a_chain(mode: str, model_folder: Path) -> None:
    """Ten thousand nodes: one look-up that is not by a key takes minutes."""
    put(model_folder, chain(10_000, "MatMul", "Relu", "Sigmoid"))
    words = ["quantize", "m.onnx", "--dry-run", "-q", "--mode", mode, "--target", "generic"]
    done = run(*words, cwd=model_folder, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not SAMPLE_MODELS.exists(), reason="a checkout has them")
def test_every_way_to_cut_a_real_model_short_is_a_refusal(model_folder: Path) -> None:
    data = (SAMPLE_MODELS / "cnn" / "model.onnx").read_bytes()
    for share in (0.01, 0.3, 0.999):
        (model_folder / "m.onnx").write_bytes(data[: int(len(data) * share)])
        done = run("inspect", "m.onnx", cwd=model_folder)
        assert done.returncode == 3, done.stderr
        plain(done)
