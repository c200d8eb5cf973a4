"""`qtool inspect`, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.graph.inspection import graphs
from tests.graphs import ROOT

# The command is added here so that these tests hold before and after the program knows it.
PROGRAM = """
import sys
from qtool.cli import main
from qtool.cli.inspect import inspect
main.cli.add_command(inspect)
main.main()
"""


def run(
    *arguments: object, given: bytes = b"", options: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM, "inspect", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode()
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    onnx.save(graphs.plain(), made / "fp32.onnx")
    onnx.save(graphs.qdq(), made / "int8.onnx")
    (made / "bad.onnx").write_bytes(graphs.plain().SerializeToString()[:-40])
    return made


def test_one_model_is_a_table(folder: Path) -> None:
    done = run(folder / "int8.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 in int8, 1 in float32" in done.stdout
    assert "\x1b" not in done.stdout


def test_two_models_are_a_difference(folder: Path) -> None:
    done = run(folder / "fp32.onnx", folder / "int8.onnx")
    assert (done.returncode, done.stderr) == (0, "")
    assert "int8 0 -> 2" in done.stdout


@pytest.mark.parametrize("names", [["fp32.onnx"], ["fp32.onnx", "int8.onnx"]], ids=["one", "two"])
def test_json_is_one_document_on_stdout(folder: Path, names: list[str]) -> None:
    done = run(*(folder / n for n in names), "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == "qtool.inspection/1"
    assert [Path(m["path"]).name for m in document["models"]] == names
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("names", [["-"], ["-", "fp32.onnx"], ["fp32.onnx", "-"]], ids=" ".join)
def test_a_model_may_come_from_stdin_and_is_called_so(folder: Path, names: list[str]) -> None:
    paths = [n if n == "-" else folder / n for n in names]
    done = run(*paths, "--json", given=(folder / "int8.onnx").read_bytes())
    assert done.returncode == 0, done.stderr
    told = [Path(m["path"]).name for m in json.loads(done.stdout)["models"]]
    assert told == ["stdin" if n == "-" else n for n in names]


@pytest.mark.parametrize("names", [["bad.onnx"], ["none.onnx"], ["fp32.onnx", "bad.onnx"]], ids=" ".join)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["table", "json"])
def test_3_a_model_that_can_t_be_read(folder: Path, names: list[str], form: list[str]) -> None:
    done = run(*(folder / n for n in names), *form)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: ")
    assert names[-1] in done.stderr


@pytest.mark.parametrize("words", [[], ["a", "b", "c"], ["a", "--no-such"]], ids=" ".join)
def test_2_usage(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


def test_a_reader_that_leaves_early_is_no_error(folder: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "inspect", folder / "int8.onnx"],
        cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_has_examples_and_exit_codes_and_imports_nothing_heavy() -> None:
    done = run("--help", options=("-X", "importtime"))
    assert "qtool inspect model.onnx int8.onnx" in done.stdout
    assert "Exit codes" in done.stdout
    imported = {row.rsplit("|", 1)[1].strip().split(".")[0] for row in done.stderr.splitlines() if "|" in row}
    assert "click" in imported
    assert not imported & {"numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "google"}


def test_an_ascii_terminal_shows_any_name(folder: Path, tmp_path: Path) -> None:
    made = graphs.plain()
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = "größe層"
    made.graph.input[0].name = made.graph.node[0].input[0] = "größe層2"
    onnx.save(made, tmp_path / "größe.onnx")
    for form in ([], ["-v"], ["--json"]):
        done = run(tmp_path / "größe.onnx", *form, env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
        assert done.returncode == 0, done.stderr
