"""Folders of living processes stay, those of dead ones are removed; file systems without locks or modes."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qtool.errors import EnvironmentFailure
from qtool.graph import save
from qtool.graph.save import staged
from qtool.runtime.tempdirs import alone_in, sweep, temporary
from tests.graph.saving import commit, listing, net


def dead(folder: Path, name: str = ".qtool-dead.tmp") -> Path:
    """As a killed process leaves it."""
    made = folder / name
    made.mkdir()
    (made / "o.onnx").write_text("half")
    return made


def test_temporary_folders_exist_while_they_are_used(tmp_path: Path) -> None:
    with temporary(tmp_path) as folder:
        (folder / "file").touch()
        sweep(tmp_path)
        assert (folder / "file").exists()
    assert listing(tmp_path) == []


def test_it_goes_with_an_exception_too(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), temporary(tmp_path):
        raise KeyboardInterrupt
    assert listing(tmp_path) == []


def test_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead(tmp_path)
    sweep(tmp_path)
    assert listing(tmp_path) == []


def test_the_next_run_sweeps(tmp_path: Path) -> None:
    dead(tmp_path)
    commit(tmp_path / "o.onnx", net())
    assert listing(tmp_path) == ["o.onnx"]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".qtool-file.tmp").touch()
    (tmp_path / ".qtool-link.tmp").symlink_to(dead(tmp_path, "precious"))
    dead(tmp_path, ".qtool-other")
    dead(tmp_path, "qtool-x.tmp")
    before = listing(tmp_path)
    sweep(tmp_path)
    assert listing(tmp_path) == before
    assert listing(tmp_path / "precious") == ["o.onnx"]


def test_a_folder_that_is_swept_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile

    real, swept = tempfile.mkdtemp, []

    def mkdtemp(**arguments: object) -> str:
        made = real(**arguments)
        if not swept:
            swept.append(made)
            sweep(tmp_path)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with temporary(tmp_path) as folder:
        assert folder.is_dir()
        assert str(folder) not in swept


def test_a_missing_folder_is_ignored(tmp_path: Path) -> None:
    sweep(tmp_path / "none")


# File systems that know less


def failing(code: int) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return call


@pytest.fixture(params=[False, True], ids=["one-file", "side-file"])
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """An output that is in place."""
    if request.param:
        monkeypatch.setattr(save, "SIDE_FILE_BYTES", 16)
    commit(tmp_path / "o.onnx", net(seed=1))
    return {p.name: p.read_bytes() for p in tmp_path.iterdir()}


def state(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.ENOLCK, errno.EBADF], ids=errno.errorcode.get)
def test_without_locks_nothing_is_removed(
    code: int, old: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", failing(code))
    left = dead(tmp_path)
    commit(tmp_path / "o.onnx", net(seed=2))
    assert left.exists()
    left.joinpath("o.onnx").unlink()
    left.rmdir()
    assert len(state(tmp_path)) == len(old)
    assert state(tmp_path) != old


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP], ids=errno.errorcode.get)
def test_fsync_is_optional(
    code: int, old: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    commit(tmp_path / "o.onnx", net(seed=2))
    assert state(tmp_path) != old


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_failed_fsync_is_an_error(
    code: int, old: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code))
    with pytest.raises(EnvironmentFailure, match="o.onnx"):
        commit(tmp_path / "o.onnx", net(seed=2))
    assert state(tmp_path) == old


class Ending(BaseException):
    """An exception that no handler expects."""


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EPERM, "no"), Ending()], ids=["refused", "interrupted"]
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("what", ["o.onnx", "side file"])
def test_a_rename_that_fails_leaves_the_old_or_the_new_whole(
    what: str, after: bool, error: BaseException, old: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.parent != tmp_path or (target.name == "o.onnx") != (what == "o.onnx"):
            return real(self, target)
        if after:
            real(self, target)
        raise error

    other = tmp_path.with_name(tmp_path.name + "-new")
    other.mkdir()
    commit(other / "o.onnx", net(seed=2))
    new = state(other)
    monkeypatch.setattr(Path, "replace", replace)
    if what == "side file" and len(old) == 1:
        return
    with pytest.raises((EnvironmentFailure, Ending)):
        commit(tmp_path / "o.onnx", net(seed=2))
    assert state(tmp_path) == (new if after and what == "o.onnx" else old)


def test_a_failed_cleanup_keeps_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save, "SIDE_FILE_BYTES", 16)
    commit(tmp_path / "o.onnx", net(seed=1))
    monkeypatch.setattr(Path, "unlink", failing(errno.EPERM))
    commit(tmp_path / "o.onnx", net(seed=2))
    assert len(listing(tmp_path)) == 3


def test_side_files_of_other_models_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model was renamed since; what no model names goes."""
    monkeypatch.setattr(save, "SIDE_FILE_BYTES", 16)
    commit(tmp_path / "o.onnx", net(seed=1))
    (tmp_path / "o.onnx").rename(tmp_path / "renamed.onnx")
    (tmp_path / "o.onnx.0123456789abcdef.data").write_text("of a killed run")
    before = state(tmp_path)
    del before["o.onnx.0123456789abcdef.data"]
    commit(tmp_path / "o.onnx", net(seed=2))
    assert before.items() <= state(tmp_path).items()
    assert len(listing(tmp_path)) == 4


def test_a_folder_whose_lock_is_held_is_waited_for(tmp_path: Path) -> None:
    import threading

    inside = threading.Event()

    def second() -> None:
        with alone_in(tmp_path):
            inside.set()

    with alone_in(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        assert not inside.wait(0.1)
    thread.join(60)
    assert inside.is_set()


def test_a_staged_file_of_another_is_not_touched(tmp_path: Path) -> None:
    with staged(tmp_path / "o.onnx") as first, staged(tmp_path / "o.onnx") as second:
        first.write_text("first")
        second.write_text("second")
        first.commit()
        assert (tmp_path / "o.onnx").read_text() == "first"
        second.commit()
    assert (tmp_path / "o.onnx").read_text() == "second"
    assert listing(tmp_path) == ["o.onnx"]
