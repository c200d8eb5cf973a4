"""`qtool inspect`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.cli.program import run, run_bytes, run_installed
from tests.graph.inspection import graphs


def inspect(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return run("inspect", *arguments, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    onnx.save(graphs.plain(), made / "fp32.onnx")
    onnx.save(graphs.qdq(), made / "int8.onnx")
    (made / "bad.onnx").write_bytes(graphs.plain().SerializeToString()[:-40])
    return made


def test_one_model_is_a_table(folder: Path) -> None:
    done = inspect(folder / "int8.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 in int8, 1 in float32" in done.stdout
    assert "\x1b" not in done.stdout


def test_two_models_are_a_difference(folder: Path) -> None:
    done = inspect(folder / "fp32.onnx", folder / "int8.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "int8 0 -> 2" in done.stdout


@pytest.mark.parametrize("names", [["fp32.onnx"], ["fp32.onnx", "int8.onnx"]], ids=["one", "two"])
def test_json_is_one_document_on_stdout(folder: Path, names: list[str]) -> None:
    done = inspect(*(folder / n for n in names), "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "qtool.inspection/1"
    assert [Path(m["path"]).name for m in document["models"]] == names
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("names", [["-"], ["-", "fp32.onnx"], ["fp32.onnx", "-"]], ids=" ".join)
def test_a_model_from_stdin_is_named_stdin(folder: Path, names: list[str]) -> None:
    paths = [n if n == "-" else folder / n for n in names]
    done = run_bytes("inspect", *paths, "--json", content=(folder / "int8.onnx").read_bytes())
    assert done.returncode == 0, done.stderr
    told = [Path(m["path"]).name for m in json.loads(done.stdout)["models"]]
    assert told == ["stdin" if n == "-" else n for n in names]


@pytest.mark.parametrize("names", [["bad.onnx"], ["none.onnx"], ["fp32.onnx", "bad.onnx"]], ids=" ".join)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_3_a_model_that_can_t_be_read(folder: Path, names: list[str], form: list[str]) -> None:
    done = inspect(*(folder / n for n in names), *form)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert names[-1] in done.stderr


@pytest.mark.parametrize("words", [[], ["a", "b", "c"], ["a", "--no-such"]], ids=" ".join)
def test_2_usage(words: list[str]) -> None:
    done = inspect(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = inspect(folder / "int8.onnx", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.nightly
def test_an_ascii_terminal_shows_any_name(folder: Path, tmp_path: Path) -> None:
    made = graphs.plain()
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = "größe層"
    made.graph.input[0].name = made.graph.node[0].input[0] = "größe層2"
    onnx.save(made, tmp_path / "größe.onnx")
    for form in ([], ["-v"], ["--json"]):
        done = run_installed(
            "inspect", tmp_path / "größe.onnx", *form, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
        )
        assert done.returncode == 0, done.stderr
