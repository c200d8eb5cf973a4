"""A file appears whole or not at all, and no other file is left behind or removed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from qtool.errors import EnvironmentFailure, ModelError
from qtool.graph import save
from qtool.graph.for_session import model_for_session
from qtool.graph.load import load
from qtool.graph.save import staged, tensor_bytes, to_bytes
from qtool.runtime.session import Session
from tests.graph.saving import commit, listing, net
from tests.graphs import node, samples, weights

FEED = samples(1, x=(1, 4))[0]


def answer(path: Path) -> np.ndarray:
    return Session(path).run(FEED)[0]


def expected(seed: int = 0) -> np.ndarray:
    return FEED["x"] @ weights(4, 300, seed=seed) + 1


@pytest.fixture
def side_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is large enough for a side file."""
    monkeypatch.setattr(save, "SIDE_FILE_BYTES", 16)


@pytest.fixture(params=["one-file", "side-file"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "side-file":
        monkeypatch.setattr(save, "SIDE_FILE_BYTES", 16)


# Staging


@pytest.mark.usefixtures("either")
def test_a_committed_model_runs(tmp_path: Path) -> None:
    commit(tmp_path / "o.onnx", net())
    np.testing.assert_allclose(answer(tmp_path / "o.onnx"), expected(), rtol=1e-5, atol=1e-6)
    assert not [name for name in listing(tmp_path) if name.startswith(".")]


@pytest.mark.usefixtures("either")
def test_the_staged_file_can_be_judged_before_it_is_committed(tmp_path: Path) -> None:
    with staged(tmp_path / "o.onnx") as staging:
        staging.write(net())
        np.testing.assert_allclose(answer(staging.path), expected(), rtol=1e-5, atol=1e-6)
        assert not (tmp_path / "o.onnx").exists()


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("error", "written"), [(ValueError, False), (KeyboardInterrupt, True)])
def test_an_exception_leaves_nothing_behind(
    tmp_path: Path, error: type[BaseException], written: bool
) -> None:
    def work() -> None:
        with staged(tmp_path / "o.onnx") as staging:
            if written:
                staging.write(net())
            raise error

    with pytest.raises(error):
        work()
    assert listing(tmp_path) == []


@pytest.mark.usefixtures("either")
def test_without_commit_the_old_output_stays(tmp_path: Path) -> None:
    commit(tmp_path / "o.onnx", net(seed=1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with staged(tmp_path / "o.onnx") as staging:
        staging.write(net(seed=2))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    np.testing.assert_allclose(answer(tmp_path / "o.onnx"), expected(1), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("either")
def test_a_failed_second_run_keeps_the_old_output(tmp_path: Path) -> None:
    commit(tmp_path / "o.onnx", net())
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with staged(tmp_path / "o.onnx") as staging:
        staging.write(net())
        staging.write(net(seed=2))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("either")
def test_commit_replaces_the_whole_output(tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    commit(target, net(seed=1))
    count = len(listing(tmp_path))
    commit(target, net(seed=2))
    np.testing.assert_allclose(answer(target), expected(2), rtol=1e-5, atol=1e-6)
    assert len(listing(tmp_path)) == count  # the old side file went


@pytest.mark.usefixtures("either")
def test_committing_twice_is_safe(tmp_path: Path) -> None:
    target = tmp_path / "o.onnx"
    commit(target, net())
    before = listing(tmp_path)
    commit(target, net())
    assert listing(tmp_path) == before
    np.testing.assert_allclose(answer(target), expected(), rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("either")
def test_writing_twice_keeps_only_the_second(tmp_path: Path) -> None:
    with staged(tmp_path / "o.onnx") as staging:
        staging.write(net(seed=1))
        staging.write(net(seed=2))
        staging.commit()
    np.testing.assert_allclose(answer(tmp_path / "o.onnx"), expected(2), rtol=1e-5, atol=1e-6)
    other = tmp_path / "other"
    other.mkdir()
    commit(other / "o.onnx", net(seed=2))
    assert [n for n in listing(tmp_path) if n != "other"] == listing(other)


@pytest.mark.usefixtures("either")
def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        commit(tmp_path / folder / "o.onnx", net())
    a, b = ({p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("a", "b"))
    assert a == b


@pytest.mark.usefixtures("either")
def test_writing_does_not_change_the_model(tmp_path: Path) -> None:
    made = net()
    before = to_bytes(made)
    commit(tmp_path / "o.onnx", made)
    assert to_bytes(made) == before


@pytest.mark.usefixtures("either")
def test_a_model_with_external_data_is_saved_on_its_own(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    onnx.save(
        ir.to_proto(net()), source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    commit(out / "o.onnx", load(source / "m.onnx").model)
    for file in source.iterdir():
        file.unlink()
    np.testing.assert_allclose(answer(out / "o.onnx"), expected(), rtol=1e-5, atol=1e-6)


def test_arrays_of_external_tensors_may_be_held_while_a_model_is_written(tmp_path: Path) -> None:
    proto = onnx.load_model_from_string(to_bytes(net()))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    model = load(tmp_path / "m.onnx").model
    held = [v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value is not None]
    assert to_bytes(model) == to_bytes(model)
    assert all(np.isfinite(array).all() for array in held)


def test_a_model_that_the_checker_refuses_is_never_committed(tmp_path: Path) -> None:
    broken = net()
    broken.graph[0].op_type = "NoSuchOp"
    with pytest.raises(ModelError, match="invalid"):
        commit(tmp_path / "o.onnx", broken)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o000], ids=oct)
@pytest.mark.usefixtures("side_file")
def test_the_files_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        commit(tmp_path / "o.onnx", net())
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o777) for p in tmp_path.iterdir()} == {oct(0o666 & ~mask)}


def test_text_is_committed_atomically(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    with staged(target) as staging:
        staging.write_text("é\n")
        assert not target.exists()
        staging.commit()
    assert target.read_bytes() == "é\n".encode()
    assert listing(tmp_path) == ["plan.json"]


def test_a_missing_folder_is_an_environment_failure(tmp_path: Path) -> None:
    with (
        pytest.raises(EnvironmentFailure, match="does not exist") as caught,
        staged(tmp_path / "no" / "o.onnx"),
    ):
        pass
    assert caught.value.exit_code == 5


def test_a_folder_that_takes_no_files_is_an_environment_failure() -> None:
    with pytest.raises(EnvironmentFailure) as caught, staged(Path("/proc/o.onnx")):
        pass
    assert caught.value.exit_code == 5


def test_a_full_disk_is_an_environment_failure_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="o.onnx"), staged(tmp_path / "o.onnx") as staging:
        real, staging.path = staging.path, Path("/dev/full")
        try:
            staging.write(net())
        finally:
            staging.path = real
    assert listing(tmp_path) == []


def test_a_target_in_the_working_folder_needs_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commit(Path("o.onnx"), net())
    assert listing(tmp_path) == ["o.onnx"]


# The side file


@pytest.mark.usefixtures("side_file")
def test_the_side_file_is_named_by_its_content(tmp_path: Path) -> None:
    import hashlib

    commit(tmp_path / "o.onnx", net())
    (side,) = tmp_path.glob("*.data")
    assert side.name == f"o.onnx.{hashlib.sha256(side.read_bytes()).hexdigest()[:16]}.data"


@pytest.mark.usefixtures("side_file")
def test_only_large_tensors_go_to_the_side_file(tmp_path: Path) -> None:
    commit(tmp_path / "o.onnx", net())
    proto = onnx.load(tmp_path / "o.onnx", load_external_data=False)
    places = {t.name: t.data_location for t in proto.graph.initializer}
    assert places == {"w": onnx.TensorProto.EXTERNAL, "b": onnx.TensorProto.DEFAULT}


@pytest.mark.usefixtures("side_file")
def test_the_model_can_be_moved_with_its_side_file(tmp_path: Path) -> None:
    commit(tmp_path / "o.onnx", net())
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in [p for p in tmp_path.iterdir() if p.is_file()]:
        file.rename(moved / file.name)
    np.testing.assert_allclose(answer(moved / "o.onnx"), expected(), rtol=1e-5, atol=1e-6)


def test_a_model_that_became_small_takes_its_old_side_file_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(save, "SIDE_FILE_BYTES", 16)
        commit(tmp_path / "o.onnx", net())
    commit(tmp_path / "o.onnx", net())
    assert listing(tmp_path) == ["o.onnx"]


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(
    "other", ["o.onnx.calib.data", "o.onnx.data", "p.onnx.0123456789abcdef.data", "o.onnx.2024.data"]
)
def test_a_users_own_file_is_not_taken_for_an_old_side_file(tmp_path: Path, other: str) -> None:
    (tmp_path / other).write_text("mine")
    commit(tmp_path / "o.onnx", net())
    assert (tmp_path / other).read_text() == "mine"


@pytest.mark.usefixtures("side_file")
@pytest.mark.parametrize("name", ["o[1].onnx", "o*.onnx", "o?.onnx", "a b.onnx"])
def test_names_with_special_characters_are_taken_literally(tmp_path: Path, name: str) -> None:
    bystander = tmp_path / "o1.onnx.0123456789abcdef.data"
    bystander.write_text("mine")
    commit(tmp_path / name, net(seed=1))
    commit(tmp_path / name, net(seed=2))
    assert len(listing(tmp_path)) == 3
    assert bystander.exists()
    np.testing.assert_allclose(answer(tmp_path / name), expected(2), rtol=1e-5, atol=1e-6)


# Models for sessions


@pytest.mark.usefixtures("either")
def test_a_model_for_a_session_runs_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with model_for_session(net()) as loadable:
        np.testing.assert_allclose(Session(loadable).run(FEED)[0], expected(), rtol=1e-5, atol=1e-6)
    assert listing(tmp_path) == []


def test_tensor_bytes_are_counted_in_nested_graphs_too() -> None:
    inner = onnx.helper.make_graph(
        [node("Identity", ["k"], ["o"])],
        "b",
        [],
        [onnx.helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, [10])],
        [onnx.numpy_helper.from_array(np.zeros(10, np.float32), "k")],
    )
    graph = onnx.helper.make_graph(
        [node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        "g",
        [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [10])],
        [onnx.numpy_helper.from_array(np.zeros(3, np.int64), "unused")],
    )
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    assert tensor_bytes(ir.from_proto(made)) == 2 * 40 + 24
