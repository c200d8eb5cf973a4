"""Paths to which an output may be written: no input by any name, no folder, no existing file without --force."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtool.errors import UsageError
from qtool.graph.save import check_target


def refusal(target: Path, inputs: list[Path], force: bool = True) -> str:
    with pytest.raises(UsageError) as caught:
        check_target(target, inputs, force)
    assert caught.value.exit_code == 2
    return caught.value.message


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"model")
    return path


def aliases(path: Path) -> Iterator[Path]:
    yield path
    (path.parent / "sub").mkdir()
    yield path.parent / "sub" / ".." / path.name
    symlink = path.parent / "symlink.onnx"
    symlink.symlink_to(path)
    yield symlink
    hardlink = path.parent / "hardlink.onnx"
    hardlink.hardlink_to(path)
    yield hardlink
    (path.parent / "linked").symlink_to(path.parent)
    yield path.parent / "linked" / path.name


def test_the_input_is_refused_by_any_name_even_with_force(source: Path) -> None:
    for alias in aliases(source):
        assert "is the input" in refusal(alias, [source]), alias


def test_the_input_is_refused_by_a_relative_name(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    assert "is the input" in refusal(Path("m.onnx"), [source])
    assert "is the input" in refusal(source, [Path("./m.onnx")])


def test_an_existing_file_is_refused_without_force_only(source: Path) -> None:
    other = source.parent / "o.onnx"
    check_target(other, [source], force=False)
    other.touch()
    assert "exists" in refusal(other, [source], force=False)
    check_target(other, [source], force=True)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_refused(source: Path, force: bool) -> None:
    assert "folder" in refusal(source.parent, [source], force)


def test_only_regular_files_are_replaced_by_force(source: Path) -> None:
    os.mkfifo(source.parent / "pipe")
    assert "regular" in refusal(source.parent / "pipe", [source])
    assert "regular" in refusal(Path("/dev/null"), [source])


def test_an_input_that_is_missing_does_not_hide_the_others(source: Path) -> None:
    assert "is the input" in refusal(source, [source.parent / "missing", source])
