"""The configuration file: which one it is, and its tables as plain data."""

from __future__ import annotations

import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.errors import UsageError, printable

OWN = "qtool.toml"
PYPROJECT = "pyproject.toml"
# No list of options is this long: whoever names a larger file has named the wrong one.
LARGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class ConfigFile:
    """What a file says.

    Args:
        name: the file as the user would call it, with the table of it that is ours.
        base: the folder that its relative paths start from.
        table: the options and the tables of commands.
    """

    name: str
    base: Path
    table: dict[str, Any]


def find(given: Path | None) -> ConfigFile | None:
    """The file that --config names, else qtool.toml, else [tool.qtool] of pyproject.toml, in this folder.

    Folders above are not searched: what a command does depends on where it runs and on nothing further off.

    Raises:
        UsageError: it can't be read, or is no TOML.
    """
    if given is not None:
        found = _pyproject(given) if given.name == PYPROJECT else _whole(given)
        if found is None:
            raise UsageError(f"config '{given}' has no [tool.qtool]", "add the table, or name another file")
        return found
    own, pyproject = Path(OWN), Path(PYPROJECT)
    # What has our name and can't be read is a mistake; a strange pyproject.toml is not our business.
    if own.exists() or own.is_symlink():
        return _whole(own)
    return _pyproject(pyproject) if pyproject.is_file() else None


def _whole(path: Path) -> ConfigFile:
    return ConfigFile(str(path), _base(path), _parse(path, _read(path)))


def _pyproject(path: Path) -> ConfigFile | None:
    """Its [tool.qtool]; None, unparsed, when it does not speak of qtool."""
    data = _read(path)
    if b"qtool" not in data:
        return None
    tools = _parse(path, data).get("tool", {})
    if not isinstance(tools, dict) or "qtool" not in tools:
        return None
    if not isinstance(tools["qtool"], dict):
        raise UsageError(f"config '{path}': tool.qtool is no table", "write [tool.qtool]")
    return ConfigFile(f"{path} [tool.qtool]", _base(path), tools["qtool"])


def _base(path: Path) -> Path:
    """The file's folder; this one for what only looks like a file: --config <(...)."""
    return path.parent if path.is_file() else Path()


def _read(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"config '{path}' is a folder", f"name a file in it: {path / OWN}")
        with path.open("rb") as stream:
            data = stream.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise UsageError(f"config '{path}' does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"config '{printable(str(path))}' can't be read: {reason}") from error
    if len(data) > LARGEST_BYTES:
        raise UsageError(f"config '{path}' is larger than {LARGEST_BYTES:,} bytes", "is it the right file?")
    return data


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"config '{path}' is not UTF-8 (line {line})", "save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # a broken document; numbers or nesting without end
        message = printable(str(error))
        raise UsageError(f"config '{path}' is not valid TOML: {message}", _toml_hint(message)) from error


def _toml_hint(message: str) -> str:
    return 'strings are quoted: mode = "static"' if message.startswith("Invalid value") else ""
