"""`--show-config`: every option, its value and its origin."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from qtool.cli.command import Command
from qtool.cli.config import ONCE, key_of
from qtool.cli.main import cli
from qtool.cli.types import SourceType
from tests.cli.program import run, run_installed
from tests.cli.test_config import PLAIN, shown, write


def test_show_config_is_a_table_of_every_option(tmp_path: Path) -> None:
    write(tmp_path, 'fail-if = ["sqnr<20"]\nthreads = 2\n')
    done = run("quantize", "--show-config", "--force", cwd=tmp_path, env={"QTOOL_TARGET": "generic"})
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert "quantize" in lines[0]
    assert "qtool.toml" in lines[0]
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert rows["option"] == ["value", "from"]
    assert rows["fail-if"] == ['["sqnr<20"]', "qtool.toml"]
    assert rows["force"] == ["true", "flag"]
    assert rows["target"] == ["generic", "QTOOL_TARGET"]
    assert rows["mode"] == ["static", "default"]
    assert rows["output"] == ["default"]


def test_show_config_survives_an_ascii_terminal(tmp_path: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "QTOOL_EXCLUDE": "größe"}
    for form in ([], ["--json"]):
        done = run_installed("quantize", "--show-config", "-o", "größe.onnx", *form, cwd=tmp_path, env=env)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["quantize", "compare"])
def test_show_config_runs_nothing_and_needs_no_arguments(command: str, tmp_path: Path) -> None:
    done = run(command, "--show-config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    words = ["a.onnx", "b.onnx"] if command == "compare" else ["a.onnx", "-o", "q.onnx"]
    done = run(command, *words, "--show-config", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_show_config_still_knows_a_wrong_flag(tmp_path: Path) -> None:
    for words in (["--mode", "statik"], ["--mod", "static"], ["--threads", "x"], ["a", "b"]):
        done = run("quantize", "--show-config", *words, cwd=tmp_path)
        assert done.returncode == 2, words
        assert done.stdout == ""


@pytest.mark.parametrize("name", sorted(cli.commands.keys() - PLAIN))
def test_every_command_and_option_can_be_configured(name: str, tmp_path: Path) -> None:
    """A new one is covered by being declared, with cls=Command and type=SRC where it takes samples."""
    command = cli.commands[name]
    assert isinstance(command, Command)
    options = [p for p in command.params if isinstance(p, click.Option)]
    listed = shown(tmp_path, command=name)
    assert {key_of(o) for o in options} - ONCE.keys() <= listed.keys()
    wrong = [o.name for o in options if o.metavar == "SRC" and not isinstance(o.type, SourceType)]
    assert wrong == [], "samples are SRC, so that their paths start from the file that names them"
