"""Find and parse the configuration file."""

from __future__ import annotations

import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qtool.errors import UsageError, printable

OWN = "qtool.toml"
PYPROJECT = "pyproject.toml"
# A larger file is not a list of options.
LARGEST_BYTES = 1 << 20


@dataclass(frozen=True)
class ConfigFile:
    """A parsed configuration file.

    Args:
        name: the file for messages, with the table of pyproject.toml.
        base: the folder where its relative paths start.
        table: the options and the tables of commands.
    """

    name: str
    base: Path
    table: dict[str, Any]


def find(path: Path | None) -> ConfigFile | None:
    """Return the file of --config, else qtool.toml, else [tool.qtool] of pyproject.toml, in this folder.

    Folders above are not searched.

    Raises:
        UsageError: it can't be read, or is no TOML.
    """
    if path is not None:
        return read(path)
    own, pyproject = Path(OWN), Path(PYPROJECT)
    # An unreadable qtool.toml is an error; a pyproject.toml without our table is not.
    if own.exists() or own.is_symlink():
        return _own(own)
    return _pyproject(pyproject) if pyproject.is_file() else None


def read(path: Path) -> ConfigFile:
    """Return the file of this name.

    Raises:
        UsageError: it can't be read, or is no TOML.
    """
    file = _pyproject(path) if path.name == PYPROJECT else _own(path)
    if file is None:
        raise UsageError(f"config '{path}' has no [tool.qtool]", "add the table, or name another file")
    return file


def _own(path: Path) -> ConfigFile:
    return ConfigFile(str(path), _base(path), _parse(path, _read(path)))


def _pyproject(path: Path) -> ConfigFile | None:
    """Return its [tool.qtool]; None, unparsed, where 'qtool' does not occur in it."""
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
    """Return the file's folder; the current one for a pipe: --config <(...)."""
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
