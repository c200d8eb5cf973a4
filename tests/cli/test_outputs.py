"""The program never writes over its inputs, writes nothing but its output, and all of it or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from qtool.cli.main import cli
from qtool.errors import EnvironmentFailure, ModelError, QtoolError, UsageError
from tests.cli.program import OBEY_MODES, QTOOL, run
from tests.graphs import model, node, samples, weights, write_samples

LARGE = 40_000  # bytes that the output has at least


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with external data, and everything else that a run can read."""
    folder = tmp_path_factory.mktemp("made")
    net = model(
        [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["y"])],
        {"x": ("n", 200)},
        ["y"],
        {"w": weights(200, 200)},
    )
    onnx.save(net, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    write_samples(folder / "calib", samples(8, x=(1, 200)))
    write_samples(folder / "data", samples(4, x=(1, 200)))
    (folder / "labels.json").write_text('{"000": 1}')
    (folder / "qtool.toml").write_text('target = "generic"\n')
    return folder


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be written to."""
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


def state(folder: Path) -> dict[str, str]:
    """All that is in a folder."""
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def words(work: Path, output: Path | str, *more: object) -> list[str]:
    return [
        "quantize", str(work / "m.onnx"), "-o", str(output), "--calib", str(work / "calib"),
        "--data", str(work / "data"), "--labels", str(work / "labels.json"),
        "--config", str(work / "qtool.toml"), *map(str, more),
    ]  # fmt: skip


def refusal(arguments: list[str], kind: type[QtoolError] = UsageError) -> str:
    """The message that a command ends with, in this process: nothing of the work is begun."""
    with pytest.raises(kind) as caught:
        cli.main(arguments, standalone_mode=False)
    return caught.value.message


ALIASES: dict[str, Callable[[Path, Path], Path]] = {
    "itself": lambda file, folder: file,
    "dots": lambda file, folder: file.parent / "calib" / ".." / file.name if file.parent.name == "work" else file.parent / ".." / file.parent.name / file.name,
    "a symlink": lambda file, folder: _linked(folder / "link", lambda link: link.symlink_to(file)),
    "a hard link": lambda file, folder: _linked(folder / "link", lambda link: link.hardlink_to(file)),
    "a folder's symlink": lambda file, folder: _linked(folder / "link", lambda link: link.symlink_to(file.parent)) / file.name,
}  # fmt: skip

READ = ["m.onnx", "m.data", "calib/003.npz", "data/001.npz", "labels.json", "qtool.toml"]


def _linked(link: Path, make: Callable[[Path], None]) -> Path:
    make(link)
    return link


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("file", READ)
@pytest.mark.parametrize("option", ["-o", "--save-plan"])
def test_no_output_is_an_input_by_any_name(
    option: str, file: str, alias: str, work: Path, tmp_path: Path
) -> None:
    before = state(work)
    target = ALIASES[alias](work / file, tmp_path)
    output, plan = (target, []) if option == "-o" else (tmp_path / "q.onnx", ["--save-plan", target])
    if (file, alias) == ("m.data", "a hard link"):  # the model itself is refused then
        assert "hard link" in refusal(words(work, output, "--force", *plan), ModelError)
    else:
        assert "is the input" in refusal(words(work, output, "--force", *plan))
    assert state(work) == before
    assert not (tmp_path / "q.onnx").exists()


def test_save_plan_does_not_overwrite_the_replayed_plan(work: Path, tmp_path: Path) -> None:
    done = run(*words(work, tmp_path / "q.onnx", "--save-plan", tmp_path / "p.json"))
    assert done.returncode == 0, done.stderr
    plan = tmp_path / "p.json"
    for output, more in (
        (tmp_path / "r.onnx", ["--save-plan", plan]),
        (plan, []),
    ):
        assert "is the input" in refusal(words(work, output, "--force", "--plan", plan, *more))


@pytest.mark.parametrize(
    "plan", ["q.onnx", "sub/../q.onnx", "linked/q.onnx", "Q.onnx"], ids=["itself", "dots", "symlink", "case"]
)
def test_two_outputs_are_not_one_file(plan: str, work: Path, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path)
    assert "is the output" in refusal(words(work, tmp_path / "q.onnx", "--save-plan", tmp_path / plan))


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize("kind", ["/dev/null", "/dev/full", "fifo", "link to a device"])
def test_outputs_are_regular_files(kind: str, force: list[str], work: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" if not kind.startswith("/") else Path(kind)
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "link to a device":
        target.symlink_to("/dev/full")
    assert "not a regular file" in refusal(words(work, target, *force))


@pytest.mark.parametrize("name", [b"\xff.onnx", b"caf\xe9/q.onnx"], ids=["name", "folder"])
def test_output_names_are_utf_8(name: bytes, work: Path, tmp_path: Path) -> None:
    target = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    target.parent.mkdir(exist_ok=True)
    assert "UTF-8" in refusal(words(work, target))


@pytest.mark.parametrize("name", ["x" * 300, "none/q.onnx", "file/q.onnx", "/".join(["d"] * 3000)], ids=["long", "missing", "file", "deep"])  # fmt: skip
def test_5_an_impossible_path(name: str, work: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refusal(words(work, tmp_path / name), EnvironmentFailure)
    refusal(words(work, tmp_path / "q.onnx", "--save-plan", tmp_path / name), EnvironmentFailure)


def test_a_dangling_link_counts_as_existing(work: Path, tmp_path: Path) -> None:
    (tmp_path / "q.onnx").symlink_to(tmp_path / "nowhere")
    assert "exists" in refusal(words(work, tmp_path / "q.onnx"))
    assert not (tmp_path / "nowhere").exists()


def test_force_replaces_a_link_and_not_its_target(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("precious")
    (out / "q.onnx").symlink_to(tmp_path / "precious")
    done = run(*words(work, out / "q.onnx", "--force"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (out / "q.onnx").is_symlink()
    onnx.checker.check_model(str(out / "q.onnx"), full_check=True)


@pytest.mark.parametrize("name", ["a\n\x1b[31m naïve ☃.onnx", "x" * 250 + ".onnx"], ids=["odd", "long"])
def test_odd_names_are_accepted_and_printed_on_one_line(name: str, work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (work / "m.onnx").rename(work / name)
    arguments = words(work, out / name)
    arguments[1] = str(work / name)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in out.iterdir()] == [name]
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "\x1b" not in done.stderr


# Nothing but the output


def read_only(folder: Path, is_so: bool) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o555 if is_so else 0o755)


def test_nothing_is_written_but_the_output(work: Path, tmp_path: Path) -> None:
    """Beside the input and in the current folder nothing can be; at home and in /tmp nothing stays."""
    for name in ("out", "home", "scratch", "here"):
        (tmp_path / name).mkdir()
    env = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch")}
    read_only(work, True)
    read_only(tmp_path / "here", True)
    try:
        done = run(
            *words(work, tmp_path / "out" / "q.onnx"), cwd=tmp_path / "here", env=env, before=OBEY_MODES
        )
    finally:
        read_only(work, False)
        read_only(tmp_path / "here", False)
    assert done.returncode == 0, done.stderr
    assert {n: list(state(tmp_path / n)) for n in ("out", "home", "scratch", "here")} == {
        "out": ["q.onnx"], "home": [], "scratch": [], "here": [],
    }  # fmt: skip


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["new", "old"])
def test_5_a_folder_that_is_read_only(force: list[str], work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    if force:
        (out / "q.onnx").write_text("old")
    before = state(tmp_path)
    read_only(out, True)
    try:
        done = run(*words(work, out / "q.onnx", *force), before=OBEY_MODES)
    finally:
        read_only(out, False)
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith("error: can't write in")
    assert state(tmp_path) == before


def test_force_replaces_a_file_that_is_read_only(work: Path, tmp_path: Path) -> None:
    """As `mv -f` does: what counts is the folder."""
    out = tmp_path / "q.onnx"
    out.write_text("old")
    out.chmod(0o444)
    assert run(*words(work, out), before=OBEY_MODES).returncode == 2
    done = run(*words(work, out, "--force"), before=OBEY_MODES)
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(str(out), full_check=True)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_5_a_file_that_may_not_grow(old: bool, work: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE sends a signal that kills who does not expect it."""
    out = tmp_path / "q.onnx"
    if old:
        out.write_text("old")
    before = state(tmp_path)
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({LARGE // 2},) * 2)"
    done = run(*words(work, out, "--force"), before=limit, env={"TMPDIR": str(tmp_path)})
    assert done.returncode == 5, done.stderr
    assert done.stderr.startswith(f"error: can't write '{out}'")
    assert len(done.stderr.splitlines()) <= 2
    assert state(tmp_path) == before


def test_5_a_disk_that_is_full(work: Path, tmp_path: Path) -> None:
    """A small one of our own, that goes with the process."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", disk], capture_output=True, check=False).returncode:  # fmt: skip
        pytest.skip("no file systems may be mounted here")
    script = 'mount -t tmpfs -o size=16k tmpfs "$1" && shift && "$@"; code=$?; ls -A "$0"; exit $code'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, disk, disk, QTOOL, *words(work, disk / "q.onnx", "-q")],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 5, done.stderr
    assert done.stdout == ""
    assert "No space left" in done.stderr


def test_a_side_file_of_another_model_is_not_overwritten(work: Path, tmp_path: Path) -> None:
    """Somebody renamed a model that we wrote; its weights stay in the file that it names."""

    def quantize(source: Path, name: str, *more: object) -> subprocess.CompletedProcess[str]:
        arguments = words(work, tmp_path / name, *more)
        arguments[1] = str(source)
        return run(*arguments, before="from qtool.graph import save; save.SIDE_FILE_BYTES = 1000")

    assert quantize(work / "m.onnx", "q.onnx", "--exclude", "op:MatMul").returncode == 0
    (tmp_path / "q.onnx").rename(tmp_path / "mine.onnx")
    before = state(tmp_path)
    done = quantize(tmp_path / "mine.onnx", "q.onnx")
    assert done.returncode == 2
    assert "external data" in done.stderr or "input's" in done.stderr
    assert quantize(work / "m.onnx", "q.onnx").returncode == 0
    assert before.items() <= state(tmp_path).items()
    onnx.load(tmp_path / "mine.onnx")


def test_samples_of_odd_names_are_read(work: Path, tmp_path: Path) -> None:
    folder = os.fsencode(work / "calib") + b"/"
    for name in (b"a\nb.npz", b"\xff.npz"):
        with open(folder + name, "wb") as stream:  # noqa: PTH123  # a Path has no bytes
            np.savez(stream, x=np.zeros((1, 200), np.float32))
    done = run(*words(work, tmp_path / "q.onnx", "--json"))
    assert done.returncode == 0, done.stderr


def test_without_a_command_help_is_printed() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == run("--help").stdout
