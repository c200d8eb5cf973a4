"""file.py:function: samples from the user's code, and errors in that code."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from qtool.data import python_function
from qtool.errors import DataError, UsageError
from tests.data.helpers import arrays, assert_positions, misused, model_inputs, names, refused, source

X = model_inputs(x=(1, 2))
HEAD = "import numpy as np\ndef one(k): return {'x': np.full((1, 2), k, np.float32)}\n"


def saved(folder: Path, text: str, name: str = "calib.py") -> Path:
    file = folder / name
    file.write_text(HEAD + textwrap.dedent(text))
    return file


GIVE: dict[str, str] = {
    "a generator": "def f():\n  for k in range(3): yield one(k)",
    "a list": "def f(): return [one(k) for k in range(3)]",
    "an iterator": "def f(): return map(one, range(3))",
    "a generator that takes the inputs": """
        def f(inputs):
            for k in range(3):
                yield {n: np.full(p.shape, k, p.dtype) for n, p in inputs.items()}
        """,
    "a function with options": "def f(count=3, *more, seed=0): return map(one, range(count))",
    "a reader": """
        class Reader:
            def __init__(self): self.k = 0
            def get_next(self):
                self.k += 1
                return one(self.k - 1) if self.k <= 3 else None
        def f(): return Reader()
        """,
    "the class of a reader": """
        class f:
            def __init__(self): self.k = 0
            def get_next(self):
                self.k += 1
                return one(self.k - 1) if self.k <= 3 else None
        """,
    "the class of a dataset": """
        class f:
            def __len__(self): return 3
            def __getitem__(self, k):
                if k >= 3: raise IndexError
                return one(k)
            def __iter__(self): return (self[k] for k in range(3))
        """,
    "samples that are there already": "f = [one(k) for k in range(3)]",
    "a dataclass, which looks its module up": """
        from dataclasses import dataclass
        @dataclass
        class Plan:
            count: int = 3
        def f(): return map(one, range(Plan().count))
        """,
}


@pytest.mark.parametrize("what", GIVE)
def test_samples_come_in_many_ways(tmp_path: Path, what: str) -> None:
    text = f"{saved(tmp_path, GIVE[what])}:f"
    result = source(text, X)
    assert result.name == text
    assert names(result) == ["0", "1", "2"]
    assert [s["x"].tolist() for s in arrays(result)] == [[[k, k]] for k in range(3)]
    assert_positions(result)


def test_code_runs_once_for_repeated_reads(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = """
        def note(word):
            with open(LOG, "a") as log: log.write(word)
        note("loaded ")
        def f():
            note("called ")
            yield one(1)
        """
    result = source(f"{saved(tmp_path, text.replace('LOG', repr(str(log))))}:f", X)
    arrays(result)
    arrays(result)
    assert log.read_text() == "loaded called "


def test_neighbouring_modules_can_be_imported_and_are_unloaded(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_calib.py").write_text("COUNT = 2")
    file = saved(
        tmp_path,
        """
        import neighbour_of_calib
        def f():
            import neighbour_of_calib as again
            return map(one, range(again.COUNT))
        """,
    )
    before = list(sys.path), sys.dont_write_bytecode
    try:
        assert len(source(f"{file}:f", X)) == 2
    finally:
        sys.modules.pop("neighbour_of_calib", None)
    assert (list(sys.path), sys.dont_write_bytecode) == before
    assert not (tmp_path / "__pycache__").exists()


def test_its_output_goes_to_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = saved(
        tmp_path,
        """
        import os
        print("loading")
        def f():
            print("printed")
            os.system("echo shouted")
            yield one(1)
        """,
    )
    source(f"{file}:f", X)
    print("ours")
    out, err = capfd.readouterr()
    assert out == "ours\n"
    assert all(word in err for word in ("loading", "printed", "shouted"))


# Lines are counted with those of HEAD.
FAIL: dict[str, tuple[str, str]] = {
    "while it loads": ("x = 1 / 0", "calib.py:3: ZeroDivisionError: division by zero"),
    "on import": ("import no_such_module_anywhere", "calib.py:3: ModuleNotFoundError: No module named"),
    "by its syntax": ("def f(:", "calib.py:3: SyntaxError: "),
    "when called": (
        "def f():\n  raise ValueError('no\\x1b[31m\\nway')",
        "calib.py:4: ValueError: no?[31m way",
    ),
    "in the midst": ("def f():\n  yield one(1)\n  {}['k']", "calib.py:5: KeyError: 'k'"),
    "in a library": ("def f():\n  yield {'x': np.zeros((2, -1))}", "calib.py:4: ValueError: negative"),
    "by leaving": ("import sys\ndef f(): sys.exit(0)", "calib.py:4: SystemExit: 0"),
    "in get_next": ("class f:\n  def get_next(self): assert 0", "calib.py:4: AssertionError"),
    "by the end of an iterator": ("def f(): next(iter([]))", "calib.py:3: StopIteration"),
    "by recursion": ("def f(): return f()", "calib.py:3: RecursionError"),
    "in __iter__": ("class f:\n  def __iter__(self): raise OSError('disk')", "calib.py:4: OSError: disk"),
}


@pytest.mark.parametrize("what", FAIL)
def test_code_that_fails_is_named_by_its_line(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = FAIL[what]
    saved(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    assert refused(lambda: source("calib.py:f", X)).message.startswith(message)


def test_an_interrupt_is_not_an_error_of_the_code(tmp_path: Path) -> None:
    file = saved(tmp_path, "def f(): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        source(f"{file}:f", X)


GIVES_NONE: dict[str, tuple[str, str]] = {
    "nothing": ("def f(): pass", "gives nothing, not samples"),
    "a dict": ("def f(): return one(1)", "gives a dict, not samples"),
    "a number": ("def f(): return 3", "gives a int, not samples"),
    "an empty list": ("def f(): return []", "gives no samples"),
    "a generator of none": ("def f():\n  if 0: yield", "gives no samples"),
    "numbers": ("def f(): yield 3", "sample 0 is a int"),
    "objects": ("def f(): yield {'x': object()}", "'x' holds Python objects"),
}


@pytest.mark.parametrize("what", GIVES_NONE)
def test_a_function_that_gives_no_samples_is_refused(tmp_path: Path, what: str) -> None:
    text, message = GIVES_NONE[what]
    assert message in refused(lambda: source(f"{saved(tmp_path, text)}:f", X)).message


@pytest.mark.parametrize(("limit", "value", "count"), [("_MOST", 5, 5), ("_SHARE_OF_DISK", 0, 0)])
def test_a_function_that_never_ends_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, count: int
) -> None:
    monkeypatch.setattr(python_function, limit, value)
    file = saved(tmp_path, "def f():\n  while True: yield one(1)")
    error = refused(lambda: source(f"{file}:f", X))
    assert f"more samples than can be kept: {count}" in error.message
    assert "does it ever end?" in error.hint


@pytest.mark.parametrize(
    ("ask", "kind", "message", "hint"),
    [
        ("calip.py:f", DataError, "'calip.py' does not exist", "did you mean 'calib.py'?"),
        ("no/such.py:f", DataError, "'no/such.py' does not exist", ""),
        ("folder.py:f", DataError, "folder.py: not a regular file", ""),
        ("calib.py:sample", UsageError, "calib.py has no 'sample'", "did you mean 'samples'?"),
        ("calib.py:zzz", UsageError, "calib.py has no 'zzz'", "it has: one, samples, two"),
        ("calib.py:", UsageError, "which function of it?", "it has: one, samples, two"),
        ("calib.py", UsageError, "which function of it?", "calib.py:FUNCTION"),
        ("calib.py:two", UsageError, "takes 2 arguments (a, b)", "none, or one"),
        ("bare.py:f", UsageError, "bare.py has no 'f'", "it defines none"),
    ],
)
def test_a_mistake_in_the_name_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str, kind: type, message: str, hint: str
) -> None:
    saved(tmp_path, "def samples(): yield one(1)\ndef two(a, b): pass\n_private = one")
    (tmp_path / "bare.py").write_text("X = 1")
    (tmp_path / "folder.py").mkdir()
    monkeypatch.chdir(tmp_path)
    error = refused(lambda: source(ask, X), kind)
    assert message in error.message
    assert hint in error.hint


def test_a_forced_file_without_a_function_is_refused(tmp_path: Path) -> None:
    assert "which function" in misused(lambda: source(saved(tmp_path, ""), X, "python")).message


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "calib.py")
    assert "not a regular file" in refused(lambda: source(f"{tmp_path / 'calib.py'}:f", X)).message


def test_text_and_all_types_are_kept(tmp_path: Path) -> None:
    file = saved(tmp_path, "def f(): yield {'s': np.array(['a', 'bc']), 'n': 3, 'h': np.ones(2, np.float16)}")
    (got,) = arrays(source(f"{file}:f", X))
    assert got["s"].tolist() == ["a", "bc"]
    assert got["n"] == 3
    assert got["h"].dtype == np.float16
