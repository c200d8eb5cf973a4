"""The error tree: every error that a user can meet, with its exit code.

    QtoolError              message, hint, exit_code
      UsageError      2     options or configuration that can't be
      ModelError      3     the model is missing, corrupt, invalid or unsupported
      DataError       4     the samples are missing, empty, or of the wrong name, shape or type
      EnvironmentFailure 5  a missing extra, disk, memory, a folder that can't be written
      RuntimeFailure  6     onnxruntime failed while it ran a model

A failed gate is a result (exit code 1), not an error. Anything else that reaches the
command line's root is a bug of ours and ends in 70.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

EXIT_OK = 0
EXIT_GATE = 1
EXIT_BUG = 70
EXIT_INTERRUPTED = 130


_FLAG = re.compile(r"(?<![\w-])--([a-z][a-z-]*)")
# Options that are called otherwise in Python, and those that only the command line has.
_ARGUMENTS = {"set": "sets", "map": "rename", "metric": "metrics", "gates": "fail_if"}
_COMMAND_LINE = frozenset(
    "json report report-format save-plan svg dry-run memory-limit time-limit config show-config quiet "
    "verbose github output merge save-inputs save-outputs".split()
)


def in_python(text: str) -> str:
    """Return a message with the arguments of Python functions in place of the options of the command line."""

    def argument(match: re.Match[str]) -> str:
        name = match[1]
        return match[0] if name in _COMMAND_LINE else _ARGUMENTS.get(name, name.replace("-", "_"))

    return _FLAG.sub(argument, text)


class QtoolError(Exception):
    """An error that the user can correct.

    `message` and `hint` name options as the command line has them; `str(error)`, and the note that a
    traceback shows below it, name the arguments of the Python functions.

    Args:
        message: one line: what is wrong, and where.
        hint: one line: what to do next; may be empty.
    """

    exit_code = EXIT_BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(in_python(message))
        if hint:
            self.add_note(f"hint: {in_python(hint)}")
        self.message = message
        self.hint = hint


class UsageError(QtoolError):
    exit_code = 2


class ModelError(QtoolError):
    exit_code = 3


class DataError(QtoolError):
    exit_code = 4


class EnvironmentFailure(QtoolError):
    exit_code = 5


class RuntimeFailure(QtoolError):
    exit_code = 6


# What native libraries say when an allocation fails: onnxruntime, protobuf and pyarrow raise no MemoryError.
_OUT_OF_MEMORY = ("bad_alloc", "Failed to allocate memory", "BFCArena::AllocateRawInternal", "malloc of size")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, which is neither the model's nor the data's fault."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _OUT_OF_MEMORY)


def out_of_memory(subject: str, doing: str) -> EnvironmentFailure:
    """The error to raise for `is_out_of_memory`.

    Args:
        subject: the model or file that was worked on.
        doing: what was done with it: "onnxruntime opens it".
    """
    return EnvironmentFailure(
        f"{subject}: out of memory while {doing}",
        "free memory, or use a machine with more; see --memory-limit",
    )


def did_you_mean(word: str, words: Iterable[str], prefix: str = "") -> str:
    """A hint with the closest of the known words, or '' when none is close."""
    close = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"did you mean {prefix}{close[0]!r}?" if close else ""


def counted(count: int, noun: str) -> str:
    """Return a number of things: '1 node', '2,000 nodes'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def printable(text: str, limit: int = 300) -> str:
    """Foreign text fit for a terminal: one line, no control characters, capped.

    Node names and library messages come from other people's files; an escape sequence in
    one must not reach a terminal or a CI log.
    """
    line = " ".join(text.split())
    clean = "".join(c if c.isprintable() else "?" for c in line)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


_UNITS = {"GB": 10**9, "MB": 10**6, "KB": 10**3}


def bytes_text(count: int) -> str:
    """Return a number of bytes in the unit that suits it, to four digits, such as 124.5 KB."""
    for unit, size in _UNITS.items():
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"
