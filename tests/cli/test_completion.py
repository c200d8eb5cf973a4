"""`qtool completion`: the script is given for each shell, and works in the one that is here."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from qtool.tables.modes import MODES
from qtool.tables.targets import TARGETS
from tests.cli.program import QTOOL, run

needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")


@cache
def script() -> str:
    return run("completion", "bash").stdout


def completed(line: str, cwd: Path | None = None) -> set[str]:
    """Return the words that bash offers at the end of the line."""
    words = line.split(" ")
    code = f"""
{script()}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)})
COMP_CWORD={len(words) - 1}
compopt() {{ echo "left to the shell: $2"; }}
"$(complete -p qtool | sed -E 's/.*-F ([^ ]+).*/\\1/')" qtool
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    path = f"{Path(QTOOL).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", code],
        cwd=cwd, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str) -> None:
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_QTOOL_COMPLETE" in done.stdout
    if tool := shutil.which(shell):
        subprocess.run([tool, "-n"], input=done.stdout, text=True, check=True)


def test_the_help_says_how_to_install_it() -> None:
    text = run("completion", "--help").stdout
    assert "bash-completion/completions/qtool" in text
    assert "_qtool" in text
    assert "qtool.fish" in text


@pytest.mark.parametrize("words", [["completion"], ["completion", "tcsh"]], ids=" ".join)
def test_2_an_unknown_shell(words: list[str]) -> None:
    done = run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")


@needs_bash
def test_commands_options_and_values_are_completed(tmp_path: Path) -> None:
    assert completed("qtool q") == {"quantize"}
    assert {"--show-config", "--config", "--calib"} <= completed("qtool quantize --")
    assert completed("qtool quantize m.onnx --mode ") == set(MODES)
    assert completed("qtool quantize m.onnx --target cpu") == {t for t in TARGETS if t.startswith("cpu")}
    assert completed("qtool completion ") == {"bash", "zsh", "fish"}


@needs_bash
@pytest.mark.parametrize("line", ["quantize ", "quantize m.onnx --calib "])
def test_paths_are_left_to_the_shell(line: str) -> None:
    assert "left to the shell: default" in completed(f"qtool {line}")


@needs_bash
def test_a_broken_configuration_does_not_get_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "qtool.toml").write_text("mode = [", encoding="utf-8")
    assert completed("qtool quantize --mod", tmp_path) == {"--mode"}
