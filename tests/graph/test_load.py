"""Files as models: loaded, or refused in one plain line."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qtool.errors import ModelError
from qtool.graph.load import from_model, load, model_size
from qtool.runtime.session import Session
from tests.graph.model_files import checkless, external, net, plain, refused
from tests.graphs import rng
from tests.tiers import examples

# Files that are no models


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "4d" * 32 + "\nsize 12345\n")


def truncated(path: Path) -> None:
    path.write_bytes(net().SerializeToString()[:-50])


def flipped(path: Path) -> None:
    data = bytearray(net().SerializeToString())
    data[10] ^= 0xFF
    path.write_bytes(data)


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: None,
    "directory": Path.mkdir,
    "empty": Path.touch,
    "truncated": truncated,
    "flipped-bit": flipped,
    "random-bytes": lambda path: path.write_bytes(rng(1).bytes(5000)),
    "more-random-bytes": lambda path: path.write_bytes(rng(2).bytes(50)),
    "one-byte": lambda path: path.write_bytes(b"\x08"),
    "zeros": lambda path: path.write_bytes(bytes(1000)),
    "text": lambda path: path.write_text("hello\n"),
    "html": lambda path: path.write_text("<!doctype html><title>404</title>"),
    "git-lfs-pointer": lfs_pointer,
    "fifo": os.mkfifo,
    "dangling-symlink": lambda path: path.symlink_to("nowhere.onnx"),
    "symlink-loop": lambda path: path.symlink_to(path.name),
    "no-graph": lambda path: path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString()),
}


@pytest.mark.parametrize("make", BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_is_not_a_model_is_named(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "m.onnx"
    make(path)
    assert "m.onnx" in refused(path).message


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_is_not_a_model(device: str) -> None:
    assert "regular file" in refused(Path(device)).message


def test_a_missing_model_gets_a_hint_at_a_similar_name(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "resnet50.onnx")
    assert "'resnet50.onnx'" in refused(tmp_path / "resnet5O.onnx").hint


def test_a_missing_folder_is_a_missing_model(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "no" / "such" / "m.onnx").message


def test_a_path_through_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "can't be read" in refused(tmp_path / "file" / "m.onnx").message


def test_a_path_with_a_null_byte_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "m\0.onnx")


def test_a_truncated_file_gets_the_hint_that_explains_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    truncated(path)
    error = refused(path)
    assert "truncated" in error.hint
    assert "bytes" in error.message


# Damaged models


def in_a_fork(work: Callable[[], None]) -> int:
    """The status of a child that does it: a native crash is one of its own, and not of the tests'."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="crashes must stay in a child")
@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.lists(
        st.tuples(st.integers(0, 5300), st.integers(0, 30), st.binary(max_size=8)), min_size=1, max_size=5
    )
)
def test_a_damaged_model_loads_or_is_refused(tmp_path: Path, cuts: list[tuple[int, int, bytes]]) -> None:
    """Nothing else: no other exception, no crash."""
    data = net().SerializeToString()
    for at, size, put in cuts:
        data = data[:at] + put + data[at + size :]
    path = tmp_path / "m.onnx"
    path.write_bytes(data)

    def attempt() -> None:
        try:
            load(path)
        except ModelError as error:
            plain(error)

    assert in_a_fork(attempt) == 0


# What loads


@pytest.mark.parametrize(
    "name", ["m.onnx", "m", "m.pb", "m.json", "m.txt", "m.onnxtxt", "mit leer.onnx", "é.onnx"]
)
def test_a_model_needs_no_suffix(tmp_path: Path, name: str) -> None:
    path = checkless(net(), tmp_path / name)
    source = load(path)
    assert source.path == source.loadable == path
    assert source.name == str(path)
    assert source.size == path.stat().st_size == model_size(path)
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_symlink_to_a_model_is_a_model(tmp_path: Path) -> None:
    onnx.save(net(), tmp_path / "real.onnx")
    (tmp_path / "m.onnx").symlink_to("real.onnx")
    assert load(tmp_path / "m.onnx").sha256 == load(tmp_path / "real.onnx").sha256


def test_loading_leaves_the_file_and_its_folder_alone(tmp_path: Path) -> None:
    path = external(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    load(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_model_in_memory_is_a_source_that_a_session_opens() -> None:
    proto = net()
    before = proto.SerializeToString(deterministic=True)
    source = from_model(proto)
    assert (source.path, source.name, source.size) == (None, "model", len(before))
    assert source.sha256 == hashlib.sha256(before).hexdigest()
    assert Session(source.loadable).outputs == ["y"]
    assert proto.SerializeToString(deterministic=True) == before


def test_a_broken_model_in_memory_is_refused() -> None:
    proto = net()
    proto.graph.node[1].op_type = "No\x1bSuchOp"
    with pytest.raises(ModelError) as caught:
        from_model(proto)
    plain(caught.value)


def test_loading_keeps_the_whole_model(tmp_path: Path) -> None:
    proto = net()
    proto.metadata_props.add(key="k", value="v")
    proto.producer_name = "someone"
    source = load(checkless(proto, tmp_path / "m.onnx"))
    reloaded = ir.to_proto(source.model)
    assert reloaded.metadata_props[0].key == "k"
    assert reloaded.producer_name == "someone"
    assert [n.name for n in reloaded.graph.node] == [n.name for n in proto.graph.node]
