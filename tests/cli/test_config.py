"""docs/configuration.md: options from flags, the environment, a file; what is wrong in them is said plainly."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from qtool.cli import config_values
from qtool.cli.config import ONCE, variable_of
from qtool.errors import UsageError
from tests.cli.conftest import Workplace
from tests.cli.program import run, run_installed
from tests.graphs import ROOT

# Not about how a command does its work, so that no file has a say.
PLAIN = {"completion"}


def write(folder: Path, text: str | bytes, name: str = "qtool.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def shown(cwd: Path, *words: object, command: str = "quantize", **env: str) -> Mapping[str, list[object]]:
    """option -> [value, who set it], as --show-config has it."""
    done = run(command, "--show-config", "--json", *words, cwd=cwd, env={"QTOOL_THREADS": None, **env})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "qtool.config/1"
    assert document["command"] == command
    return {key: [row["value"], row["from"]] for key, row in document["options"].items()}


def refused(cwd: Path, *words: object, command: str = "quantize", **env: str) -> str:
    """Return the error on stderr of a usage mistake, exit code 2."""
    done = run(command, "no such model.onnx", *words, cwd=cwd, env=env)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("error: ")
    assert len(lines) <= 2
    return done.stderr


# Precedence.


def test_a_flag_wins_then_the_environment_then_the_file_then_the_default(tmp_path: Path) -> None:
    assert shown(tmp_path)["target"] == ["auto", "default"]
    write(tmp_path, 'target = "cpu-avx2"')
    assert shown(tmp_path)["target"] == ["cpu-avx2", "qtool.toml"]
    assert shown(tmp_path, QTOOL_TARGET="generic")["target"] == ["generic", "QTOOL_TARGET"]
    assert shown(tmp_path, "--target", "cpu", QTOOL_TARGET="generic")["target"] == ["cpu", "flag"]


def test_the_file_is_the_given_one_else_qtool_toml_else_pyproject(tmp_path: Path) -> None:
    write(tmp_path, "[tool.qtool]\nthreads = 1\n", "pyproject.toml")
    assert shown(tmp_path)["threads"] == [1, "pyproject.toml [tool.qtool]"]
    write(tmp_path, "threads = 2")
    assert shown(tmp_path)["threads"] == [2, "qtool.toml"]
    write(tmp_path, "threads = 3", "conf/mine.toml")
    assert shown(tmp_path, "--config", "conf/mine.toml")["threads"] == [3, "conf/mine.toml"]
    assert shown(tmp_path, "--config", "pyproject.toml")["threads"][0] == 1
    assert shown(tmp_path, "--config", os.devnull)["threads"] == [0, "default"]


def test_one_file_is_read_and_not_a_mixture(tmp_path: Path) -> None:
    write(tmp_path, "[tool.qtool]\nthreads = 1\n", "pyproject.toml")
    write(tmp_path, 'target = "generic"')
    assert shown(tmp_path)["threads"] == [0, "default"]


def test_parent_folders_are_not_searched(tmp_path: Path) -> None:
    write(tmp_path, "threads = 2")
    (tmp_path / "below").mkdir()
    assert shown(tmp_path / "below")["threads"] == [0, "default"]


def test_a_commands_table_wins_over_common_options(tmp_path: Path) -> None:
    write(tmp_path, "threads = 2\n[compare]\nthreads = 3\nspeed = true\n")
    assert shown(tmp_path)["threads"][0] == 2
    options = shown(tmp_path, command="compare")
    assert (options["threads"][0], options["speed"][0]) == (3, True)
    write(tmp_path, "[tool.qtool]\nthreads = 2\n[tool.qtool.compare]\nthreads = 3\n", "p/pyproject.toml")
    assert shown(tmp_path / "p", command="compare")["threads"][0] == 3


def test_common_options_need_not_exist_in_every_command(tmp_path: Path) -> None:
    write(tmp_path, 'mode = "static"\nthreads = 2\n')
    assert shown(tmp_path, command="compare", QTOOL_MODE="static")["threads"][0] == 2


@pytest.mark.parametrize("key", ["fail-if", "fail_if"])
def test_keys_take_either_dash(key: str, tmp_path: Path) -> None:
    write(tmp_path, f'{key} = ["sqnr<20", "logits:top1 < 0.9"]')
    assert shown(tmp_path)["fail-if"][0] == ["sqnr<20", "logits:top1 < 0.9"]


def test_a_repeatable_option_takes_one_string_too(tmp_path: Path) -> None:
    write(tmp_path, 'fail-if = "sqnr<20"')
    assert shown(tmp_path)["fail-if"][0] == ["sqnr<20"]


def test_a_flag_replaces_a_list(tmp_path: Path) -> None:
    write(tmp_path, 'exclude = ["a", "b"]')
    assert shown(tmp_path, "--exclude", "c")["exclude"] == [["c"], "flag"]


def test_a_variable_has_one_value_a_line(tmp_path: Path) -> None:
    """Gates and patterns hold spaces, commas, colons and brackets."""
    odd = ["sqnr < 20", "a,b:cosine<0.9", "[x] y:top1<1"]
    assert shown(tmp_path, QTOOL_FAIL_IF="\n".join(odd) + "\n\n")["fail-if"][0] == odd
    assert shown(tmp_path, QTOOL_EXCLUDE="[ab]*")["exclude"][0] == ["[ab]*"]


@pytest.mark.parametrize(("text", "value"), [("1", True), ("yes", True), ("0", False), ("false", False)])
def test_a_variable_turns_a_flag_on_and_off(text: str, value: bool, tmp_path: Path) -> None:
    write(tmp_path, "force = true")
    assert shown(tmp_path, QTOOL_FORCE=text)["force"] == [value, "QTOOL_FORCE"]


def test_an_empty_variable_is_none(tmp_path: Path) -> None:
    assert shown(tmp_path, QTOOL_TARGET="", QTOOL_CALIB=" ")["target"] == ["auto", "default"]


# Paths.


def test_paths_in_a_file_start_from_its_folder(tmp_path: Path) -> None:
    text = 'calib = "c"\ndata = "/d"\nlabels = "../l.json"\nplan = "p.json"\noutput = "-"\n'
    path = write(tmp_path, text, "conf/qtool.toml")
    options = shown(tmp_path, "--config", "conf/qtool.toml")
    wanted = {
        "calib": "conf/c",
        "data": "/d",
        "labels": "conf/../l.json",
        "plan": "conf/p.json",
        "output": "-",
    }
    assert {key: options[key][0] for key in wanted} == wanted
    assert shown(path.parent)["calib"][0] == "c"
    assert shown(path.parent, QTOOL_CALIB="x")["calib"][0] == "x"


@pytest.mark.parametrize("word", ["none", "random:8"])
def test_words_are_not_paths(word: str, tmp_path: Path) -> None:
    write(tmp_path, f'calib = "{word}"', "conf/qtool.toml")
    assert shown(tmp_path, "--config", "conf/qtool.toml")["calib"][0] == word


def test_a_choice_among_numbers_is_written_either_way(tmp_path: Path) -> None:
    option = click.Option(["--bits"], type=click.Choice(["4", "8"]))
    context = click.Context(click.Command("c", params=[option]))
    assert config_values.from_file(context, option, 4, tmp_path, "f: bits") == "4"
    assert config_values.from_file(context, option, "8", tmp_path, "f: bits") == "8"
    for wrong in (5, "5", True, 4.0, [4]):
        with pytest.raises(UsageError, match="f: bits"):
            config_values.from_file(context, option, wrong, tmp_path, "f: bits")


@pytest.mark.parametrize(
    ("key", "value", "others"), [("effort", '"best"', "profile"), ("threads", "0", "bench")]
)
def test_a_value_for_all_is_for_the_commands_that_take_it(
    key: str, value: str, others: str, tmp_path: Path
) -> None:
    default = shown(tmp_path, command=others, **{variable_of(key): ""})[key]
    write(tmp_path, f"{key} = {value}")
    assert shown(tmp_path, **{variable_of(key): ""})[key] == [json.loads(value), "qtool.toml"]
    assert shown(tmp_path, command=others, **{variable_of(key): ""})[key] == default
    (tmp_path / "qtool.toml").unlink()
    text = str(json.loads(value))
    assert shown(tmp_path, **{variable_of(key): text})[key] == [json.loads(value), variable_of(key)]
    assert shown(tmp_path, command=others, **{variable_of(key): text})[key] == default


def test_a_value_that_no_command_takes_is_a_mistake_for_each(tmp_path: Path) -> None:
    write(tmp_path, 'effort = "bset"')
    for command in ("quantize", "profile"):
        assert "qtool.toml: effort: 'bset'" in refused(tmp_path, command=command)


def test_a_value_in_the_table_of_a_command_is_for_no_other(tmp_path: Path) -> None:
    write(tmp_path, '[profile]\neffort = "best"')
    assert "[profile]: effort: 'best'" in refused(tmp_path, "-o", "x.json", command="profile")


# Mistakes.

MISTAKES = {
    # name: (the file, what is said)
    "unknown key": ('mod = "static"', ["qtool.toml: no option 'mod'", "'mode'"]),
    "unknown key of a command": ("[quantize]\nthread = 1", ["qtool.toml: [quantize]: no option 'thread'", "'threads'"]),
    "a key of another command": ("[quantize]\nspeed = true", ["[quantize]: no option 'speed'", "option of compare"]),
    "in another command's table": ("[compare]\nsped = true", ["[compare]: no option 'sped'", "'speed'"]),
    "unknown command": ("[quantise]\nthreads = 1", ["[quantise] is no command", "'quantize'"]),
    "a command of no options": ("[completion]\nthreads = 1", ["[completion] is no command"]),
    "an option as a table": ("[mode]\nx = 1", ["[mode] is an option"]),
    "a command as an option": ("compare = 3", ["compare is a command", "[compare]"]),
    "an argument": ('fp32 = "m.onnx"', ["no option 'fp32'", "command line"]),
    "a number for a choice": ("mode = 3", ["qtool.toml: mode: wants one of static", "not 3", 'mode = "static"']),
    "no such choice": ('mode = "statik"', ["qtool.toml: mode: 'statik'", "did you mean 'static'"]),
    "a word for a flag": ('force = "yes"', ["qtool.toml: force: wants true or false", '"yes"', "force = true"]),
    "a number for a flag": ("force = 1", ["force: wants true or false", "not 1"]),
    "a flag for a number": ("threads = true", ["threads: wants a whole number", "not true"]),
    "a string for a number": ('threads = "4"', ["threads: wants a whole number", '"4"']),
    "a fraction for a number": ("threads = 1.5", ["threads: wants a whole number", "1.5"]),
    "out of range": ("threads = -1", ["threads: -1"]),
    "a number for a path": ("calib = 3", ["calib: wants a string", "not 3"]),
    "a date for a path": ("output = 2024-01-01", ["output: wants a string", "2024-01-01"]),
    "a list for a string": ('calib = ["a", "b"]', ["calib: wants a string", '["a", "b"]']),
    "a number in a list": ('fail-if = ["sqnr<20", 3]', ["fail-if: wants a string, or a list of such", "not 3"]),
    "a list in a list": ('fail-if = [["sqnr<20"]]', ["fail-if: wants a string"]),
    "a folder for a file": ('save-plan = "results/"', ["qtool.toml: save-plan: ", "results/' is a folder"]),
    "a null character": ('output = "a\\u0000b"', ["output: holds a null character"]),
    "the same twice": ('fail-if = "sqnr<20"\nfail_if = "sqnr<30"', ["'fail-if' and 'fail_if' are the same"]),
    "broken": ("threads = 1\nmode = static\n", ["qtool.toml", "not valid TOML", "line 2", "quoted"]),
    "the key twice": ("threads = 1\nthreads = 2\n", ["not valid TOML", "line 2"]),
    "nested without end": ("x = " + "[" * 100_000, ["not valid TOML"]),
    "a number without end": ("threads = " + "9" * 10_000, ["not valid TOML"]),
    "escapes": ('"\\u001b[31m" = 1', ["no option '?[31m'"]),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_value_is_named_with_the_expected_type(mistake: str, tmp_path: Path) -> None:
    text, wanted = MISTAKES[mistake]
    write(tmp_path, text)
    said = refused(tmp_path)
    assert "qtool.toml" in said
    assert [part for part in wanted if part not in said] == [], said
    assert "\x1b" not in said


@pytest.mark.parametrize("key", ONCE)
@pytest.mark.parametrize("command", ["quantize", "compare"])
def test_options_of_one_run_are_flags_only(key: str, command: str, tmp_path: Path) -> None:
    write(tmp_path, f"{key} = true")
    assert f"'{key}' can't be set in a file: {ONCE[key]}" in refused(tmp_path, "x", command=command)
    (tmp_path / "qtool.toml").unlink()
    said = refused(tmp_path, "x", command=command, **{variable_of(key): "1"})
    assert f"{variable_of(key)}: can't be set there" in said


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("QTOOL_MOED", "static", ["QTOOL_MOED: there is no such option", "did you mean 'QTOOL_MODE'"]),
        ("QTOOL_mode", "static", ["QTOOL_mode: there is no such option", "did you mean 'QTOOL_MODE'"]),
        ("QTOOL_FAILIF", "sqnr<20", ["QTOOL_FAILIF", "did you mean 'QTOOL_FAIL_IF'"]),
        ("QTOOL_FAIL-IF", "sqnr<20", ["QTOOL_FAIL-IF", "did you mean 'QTOOL_FAIL_IF'"]),
        ("QTOOL_", "x", ["QTOOL_: there is no such option"]),
        ("QTOOL_MODE", "statik", ["environment variable QTOOL_MODE: 'statik'", "did you mean 'static'"]),
        ("QTOOL_FORCE", "perhaps", ["environment variable QTOOL_FORCE: 'perhaps'"]),
        ("QTOOL_THREADS", "many", ["environment variable QTOOL_THREADS: 'many'"]),
    ],
)
def test_a_mistake_in_the_environment_is_named(
    name: str, value: str, wanted: list[str], tmp_path: Path
) -> None:
    said = refused(tmp_path, **{name: value})
    assert [part for part in wanted if part not in said] == [], said


def test_files_that_are_none(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path, "--config", "none.toml")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(tmp_path, "--config", "folder")
    write(tmp_path, b"threads = 1\n# caf\xe9\n", "latin.toml")
    assert "not UTF-8 (line 2)" in refused(tmp_path, "--config", "latin.toml")
    write(tmp_path, b"#" * (1 << 20) + b"\n", "huge.toml")
    assert "larger than" in refused(tmp_path, "--config", "huge.toml")
    assert "larger than" in refused(tmp_path, "--config", "/dev/zero")
    assert "qtool.toml" in refused(tmp_path, "--config", tmp_path)
    write(tmp_path, "[tool.other]\nqtool = 1\n", "a/pyproject.toml")
    assert "no [tool.qtool]" in refused(tmp_path, "--config", "a/pyproject.toml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    write(tmp_path, "threads = 1").chmod(0)
    assert "can't be read: Permission denied" in refused(tmp_path)


def test_a_broken_link_or_folder_named_qtool_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qtool.toml").symlink_to("gone.toml")
    assert "config 'qtool.toml' does not exist" in refused(tmp_path)
    (tmp_path / "qtool.toml").unlink()
    (tmp_path / "qtool.toml").mkdir()
    assert "is a folder" in refused(tmp_path)


def test_a_strange_pyproject_is_not_our_business(tmp_path: Path) -> None:
    for content in (
        b"this is no TOML",
        b"\xff\xfe",
        b'[project]\nname = "qtool"\n',
        b"[tool.ruff]\nmode = 3\n",
    ):
        write(tmp_path, content, "pyproject.toml")
        assert shown(tmp_path)["threads"] == [0, "default"]
    write(tmp_path, "[tool]\nqtool = 3\n", "pyproject.toml")
    assert "tool.qtool is no table" in refused(tmp_path)
    write(tmp_path, "[tool.qtool]\nmode = 3\n", "pyproject.toml")
    assert "pyproject.toml [tool.qtool]: mode: wants" in refused(tmp_path)


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    write(tmp_path, b"\xef\xbb\xbfthreads = 2\r\n")
    assert shown(tmp_path)["threads"][0] == 2


def test_a_file_from_a_pipe_has_paths_from_here(tmp_path: Path) -> None:
    shell = '"$@" --config <(echo \'calib = "c"\')'
    done = run_installed("quantize", "--show-config", shell=shell, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert any(line.split()[:2] == ["calib", "c"] for line in done.stdout.splitlines())


@pytest.mark.parametrize("words", [["quantize", "--help"], ["--help"], ["--version"], ["completion", "bash"]])
def test_a_broken_file_does_not_prevent_help(words: list[str], tmp_path: Path) -> None:
    write(tmp_path, "mode = [")
    assert run(*words, cwd=tmp_path, env={"QTOOL_MOED": "1"}).returncode == 0


# It is not only shown: it is done.


def test_a_file_and_the_environment_do_the_job(place: Workplace, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f'calib = "{os.path.relpath(place.calib, tmp_path / "conf")}"\ntarget = "generic"\n'
        '[quantize]\noutput = "../q.onnx"\n',
        "conf/qtool.toml",
    )
    done = run("quantize", place.model, "--config", path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "q.onnx").read_bytes() == place.quantized.read_bytes()
    env = {"QTOOL_DATA": str(place.calib), "QTOOL_FAIL_IF": "sqnr < 1\nsqnr < 200", "QTOOL_JSON": "1"}
    done = run("compare", place.model, "q.onnx", cwd=tmp_path, env=env)
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["failed"] == ["sqnr < 200"]


def test_the_example_of_the_documentation_is_true(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```toml\n")[1:]]
    assert len(blocks) >= 2
    for name, block in zip(("qtool.toml", "pyproject.toml"), blocks, strict=False):
        write(tmp_path, block, f"{name}.d/{name}")
        for command in ("quantize", "compare"):
            assert any(name in str(row[1]) for row in shown(tmp_path / f"{name}.d", command=command).values())
    assert [key for key in ONCE if f"`{key}`" not in text] == []
