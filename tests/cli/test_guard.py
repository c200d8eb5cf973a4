"""The work in a process of its own: whatever becomes of it ends in one error that says what it was at."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import time
from pathlib import Path

import pytest

from qtool.cli.guard import END_SIGNALS
from qtool.errors import DataError, ModelError, RuntimeFailure
from qtool.runtime import heartbeat
from qtool.runtime.deaths import Limits
from qtool.runtime.heartbeat import writing_in
from tests.cli.program import Program

# A program whose work is a few lines, and that tells what comes of it as its last line.
PROGRAM = """
import os; os.setsid()
import ctypes, json, os, signal, sys, tempfile, time
from pathlib import Path
from qtool.cli import guard
from qtool.cli.main import _interrupt
from qtool.errors import ModelError, QtoolError
from qtool.runtime import watchdog
from qtool.runtime.heartbeat import beat, step, weighs, writing_in

for number in guard.END_SIGNALS:
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _interrupt)
guard._GRACE = 0.5
watchdog.IMPORTS_SECONDS = 0
here = os.getpid()

def work():
{work}

def tell(**what):
    print(json.dumps({{"child": os.getpid() != here, **what}}), flush=True)

try:
    tell(code=guard.guarded(work, guard.Limits({limits})))
except QtoolError as error:
    tell(error=error.message, code=error.exit_code)
except KeyboardInterrupt:
    tell(code=130)
except MemoryError:
    tell(code=5, error="memory")
raise SystemExit
"""


def start(folder: Path, work: str, limits: str = "") -> Program:
    body = "\n".join("    " + line for line in work.strip().splitlines())
    before = PROGRAM.format(work=body, limits=limits)
    return Program(before=before, cwd=folder, env={"TMPDIR": str(folder)})


def ended(process: Program) -> list[dict]:
    """Return all reports, once both processes have ended: the pipe ends with its last writer."""
    try:
        out, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert b"Traceback" not in errors
    return [json.loads(line) for line in out.splitlines() if line.startswith(b"{")]


def told(folder: Path, work: str, limits: str = "") -> dict:
    """Return the last report, that of the parent. Nothing is left in the temporary folder."""
    last = ended(start(folder, work, limits))[-1]
    assert not last.pop("child")
    assert not [p for p in folder.iterdir() if p.name.startswith(".qtool")]
    return last


def test_the_code_of_the_work_is_the_code_of_the_program(tmp_path: Path) -> None:
    assert ended(start(tmp_path, "return 3")) == [
        {"child": True, "code": 3},
        {"child": False, "code": 0},  # it told, and ended: this program does not exit with its code
    ]


def test_the_child_reports_its_error(tmp_path: Path) -> None:
    first = ended(start(tmp_path, "raise ModelError('bad')"))[0]
    assert first == {"child": True, "code": 3, "error": "bad"}


DEATHS = {
    # what it does: code, what the error says
    "os.kill(os.getpid(), signal.SIGSEGV)": (3, "m.onnx: a native library crashed (SIGSEGV): it is checked"),
    "os.abort()": (3, "m.onnx: a native library crashed (SIGABRT): it is checked"),
    "os.kill(os.getpid(), signal.SIGRTMIN + 2)": (3, "m.onnx: a native library crashed (signal 36): it is checked"),
    "ctypes.string_at(0)": (3, "m.onnx: a native library crashed (SIGSEGV): it is checked"),
    "os.kill(os.getpid(), signal.SIGKILL)": (5, "killed by the system (m.onnx: it is checked): out of memory?"),
    "os._exit(7)": (5, "a native library gave up (m.onnx: it is checked): out of memory?"),
    "os._exit(0)": (5, "a native library gave up (m.onnx: it is checked): out of memory?"),
}  # fmt: skip


@pytest.mark.parametrize("death", DEATHS)
def test_a_crash_is_an_error_that_names_the_step(death: str, tmp_path: Path) -> None:
    code, message = DEATHS[death]
    work = f"with step('m.onnx', 'it is checked', ModelError):\n    {death}"
    assert told(tmp_path, work) == {"code": code, "error": message}


def test_a_crash_outside_of_a_step_is_a_bug(tmp_path: Path) -> None:
    done = told(tmp_path, "with step('m', 'd', ModelError):\n    pass\nos.abort()")
    assert done == {"code": 70, "error": "qtool crashed (SIGABRT)"}


def test_the_innermost_step_is_named(tmp_path: Path) -> None:
    work = """
with step('outer', 'one', ModelError):
    with step('inner', 'two', QtoolError):
        pass
    with step('in\\x1bner\\n', 'three', ModelError):
        os.abort()
"""
    assert told(tmp_path, work)["error"] == "in?ner: a native library crashed (SIGABRT): three"


# Time


def test_sigterm_to_the_child_ends_both(tmp_path: Path) -> None:
    assert told(tmp_path, "os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(600)") == {"code": 130}


BURN = "while True: pass"


def test_cpu_time_without_a_heartbeat_ends_it(tmp_path: Path) -> None:
    work = f"with step('m.onnx', 'it is checked', ModelError):\n    {BURN}"
    assert ended(start(tmp_path, work, "seconds=1")) == [
        {"child": False, "code": 3, "error": "m.onnx: no end after 1 s of CPU time: it is checked"}
    ]


def test_cpu_time_of_a_worker_process_counts(tmp_path: Path) -> None:
    work = f"""
import subprocess
with step('m.onnx', 'it is timed', ModelError):
    subprocess.run([sys.executable, '-c', {BURN!r}])
"""
    done = ended(start(tmp_path, work, "seconds=1"))
    assert done == [{"child": False, "code": 3, "error": "m.onnx: no end after 1 s of CPU time: it is timed"}]


def test_outside_of_any_step_the_stage_is_named_and_the_model_is_not_blamed(tmp_path: Path) -> None:
    work = f"from qtool.runtime import heartbeat\nheartbeat.stage('placement')\n{BURN}"
    done = told(tmp_path, work, "seconds=1, advice='keep it'")
    assert done == {"code": 5, "error": "no heartbeat in 1 s of CPU time (placement)"}


def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    work = f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{BURN}"
    done = told(tmp_path, work, "seconds=1")
    assert done == {"code": 5, "error": "no heartbeat in 1 s of CPU time"}


def test_imports_never_count(tmp_path: Path) -> None:
    """Modules that take longer than the limit, each of them less."""
    for number in range(8):
        burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass"
        (tmp_path / f"slow{number}.py").write_text(burn)
    work = "sys.path.insert(0, os.getcwd())\nfor n in range(8): __import__(f'slow{n}')\nreturn 4"
    assert ended(start(tmp_path, work, "seconds=1.5"))[0] == {"child": True, "code": 4}


@pytest.mark.parametrize(
    ("limits", "size", "seconds"),
    [
        (Limits(), 0, 60),
        (Limits(), 2_000_000_000, 180),
        (Limits(seconds=5), 10**12, 5),
        (Limits(seconds=0), 0, float("inf")),
    ],
    ids=["none", "large", "given", "any"],
)
def test_the_time_limit_grows_with_the_model(limits: Limits, size: int, seconds: float) -> None:
    assert limits.patience(size) == seconds


# Memory


def test_memory_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    first = ended(start(tmp_path, "bytearray(1 << 31)", "memory=1 << 30"))[0]
    assert first == {"child": True, "code": 5, "error": "memory"}


@pytest.mark.parametrize("limits", ["memory=0", "memory=2 << 30", ""], ids=["any", "enough", "default"])
def test_memory_within_the_limit_is_allocated(limits: str, tmp_path: Path) -> None:
    assert ended(start(tmp_path, "bytearray(1 << 28)\nreturn 4", limits))[0]["code"] == 4


def test_a_crash_leaves_no_core_file(tmp_path: Path) -> None:
    told(tmp_path, "os.abort()")
    assert list(tmp_path.iterdir()) == []


# Ends from outside


def wait_for(path: Path, process: Program) -> None:
    deadline = time.monotonic() + 600
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


BUSY = "Path('begun').touch()\nwhile True: time.sleep(0.01)"
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + BUSY


SIGNALS = [
    *((signal.SIGTERM, group, work) for group in (False, True) for work in (BUSY, DEAF)),
    (signal.SIGINT, False, BUSY),
    *((number, True, BUSY) for number in sorted(END_SIGNALS - {signal.SIGTERM})),
]
NAMES = [
    f"{n.name}-{'group' if group else 'one'}-{'deaf' if work == DEAF else 'hears'}"
    for n, group, work in SIGNALS
]


@pytest.mark.parametrize(("number", "group", "work"), SIGNALS, ids=NAMES)
def test_signals_end_both_processes(number: signal.Signals, group: bool, work: str, tmp_path: Path) -> None:
    process = start(tmp_path, work)
    wait_for(tmp_path / "begun", process)
    (os.killpg if group else os.kill)(process.pid, number)
    assert ended(process) == [{"child": False, "code": 130}]  # one of them says so
    assert [p.name for p in tmp_path.iterdir()] == ["begun"]


def test_a_signal_after_the_end_of_the_work_changes_nothing(tmp_path: Path) -> None:
    late = """
wait = os.waitpid
def late(*arguments):
    status = wait(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    return status
os.waitpid = late

def tell("""
    before = PROGRAM.format(work="    return 0", limits="").replace("\ndef tell(", late, 1)
    process = Program(before=before, cwd=tmp_path, env={"TMPDIR": str(tmp_path)})
    assert ended(process)[-1] == {"child": False, "code": 0}


@pytest.mark.parametrize("work", [BUSY, DEAF], ids=["hears", "deaf"])
def test_the_child_dies_with_its_parent(work: str, tmp_path: Path) -> None:
    process = start(tmp_path, work)
    wait_for(tmp_path / "begun", process)
    process.kill()
    ended(process)  # returns when the last one that could write is gone
    left = [p.name for p in tmp_path.iterdir() if p.name != "begun"]
    assert all(name.startswith(".qtool-") for name in left)
    assert work == DEAF or not left
    told(tmp_path, "return 0") if left else None  # the next one sweeps


def test_a_child_that_ends_by_force_leaves_nothing_beside_its_output(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".qtool-mine.tmp").write_text("a file of somebody else's")
    work = f"""
from qtool.graph.save import staged
with staged(Path({str(out)!r}) / 'q.onnx') as staging:
    staging.write_text('half')
    assert list(Path({str(out)!r}).glob('.qtool-*/q.onnx'))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert told(tmp_path, work)["code"] == 5
    assert [p.name for p in out.iterdir()] == [".qtool-mine.tmp"]


# The page


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> mmap.mmap:
    monkeypatch.setattr(heartbeat, "_notes", heartbeat._Notes())
    made = mmap.mmap(-1, heartbeat.PAGE_BYTES)
    heartbeat.show_on(made)
    return made


def test_a_page_shows_the_step_and_the_model_size(page: mmap.mmap) -> None:
    assert heartbeat.read(page).step is None
    heartbeat.weighs(10)
    heartbeat.weighs(5)
    with heartbeat.step("a", "b", ModelError):
        with heartbeat.step("c\n\x1b[31m", "d" * 300, DataError):
            snapshot = heartbeat.read(page)
            assert snapshot.step is not None
            assert (snapshot.step.subject, snapshot.step.blame) == ("c ?[31m", 4)
            assert len(snapshot.step.doing) == 200
        assert heartbeat.read(page).step == heartbeat.Step("a", "b", 3)
    assert heartbeat.read(page).step is None
    assert heartbeat.read(page).model_bytes == 10


def test_every_note_is_a_heartbeat(page: mmap.mmap) -> None:
    def write() -> None:
        with writing_in("/x"):
            pass

    beats = [heartbeat.read(page).beats]
    stage = lambda: heartbeat.stage("one")  # noqa: E731
    for sign in (heartbeat.beat, heartbeat.end, write, lambda: heartbeat.weighs(1), stage, stage):
        sign()
        beats.append(heartbeat.read(page).beats)
    assert beats == sorted(set(beats))


def test_a_page_holds_the_end_and_the_folders(page: mmap.mmap) -> None:
    assert not heartbeat.read(page).ended
    with writing_in("/a"), writing_in("/b\udcff"):
        with writing_in("/a"):
            assert heartbeat.read(page).folders == ("/a", "/b\udcff", "/a")
        heartbeat.end()
        assert heartbeat.read(page).ended and set(heartbeat.read(page).folders) == {"/a", "/b\udcff"}
    assert heartbeat.read(page).folders == ()
    with pytest.raises(KeyboardInterrupt), writing_in("/c"):
        raise KeyboardInterrupt
    assert heartbeat.read(page).folders == ("/c",), "the guard looks there: the file may have just been made"


def test_a_note_that_is_too_long_for_the_page_leaves_the_last_one(page: mmap.mmap) -> None:
    with heartbeat.step("a", "b", RuntimeFailure), contextlib.ExitStack() as folders:
        for index in range(100):
            folders.enter_context(writing_in(f"/{index}" + "x" * 1000))
        assert heartbeat.read(page).step == heartbeat.Step("a", "b", 6)


@pytest.mark.parametrize("note", [b"", b"[", b"null", b"[1, 2]", b"\xff" * 64], ids=repr)
def test_a_torn_note_is_ignored(note: bytes, page: mmap.mmap) -> None:
    page[: 25 + len(note)] = heartbeat._HEAD.pack(7, 8, len(note), False) + note
    snapshot = heartbeat.read(page)
    assert (snapshot.beats, snapshot.model_bytes, snapshot.step, snapshot.folders) == (7, 8, None, ())


def test_steps_work_without_a_page() -> None:
    with heartbeat.step("a", "b", ModelError):
        heartbeat.beat()
