"""Files behind URLs: copied here before the work, and back after it. fsspec knows the protocols."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from qtool.errors import EnvironmentFailure, QtoolError, printable
from qtool.graph.share import side_files
from qtool.runtime.heartbeat import beat, step

# What may lie beside a model, and tell how its samples are read.
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")


def public(url: str) -> str:
    """Return a URL for messages: without a user, a password and a query."""
    scheme, rest = _parts(url)
    return printable(f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}")


def name_of(url: str) -> str:
    """Return the last part of a URL's path."""
    return PurePosixPath(_parts(url)[1].partition("?")[0]).name or "remote"


def exists(url: str) -> bool:
    """Return whether a file or folder is there.

    Raises:
        EnvironmentFailure: as `fetch`.
    """
    with _reported(url, EnvironmentFailure) as (fs, path):
        return bool(fs.exists(path))


def fetch(url: str, folder: Path, missing: type[QtoolError]) -> Path:
    """Copy a file or a folder to a folder, and return its path there; of a model also its external data.

    Args:
        url: of the file or folder.
        folder: an empty one.
        missing: the error where nothing is there.

    Raises:
        QtoolError: `missing`.
        EnvironmentFailure: fsspec or the package of the protocol is not installed, or access fails.
    """
    target = folder / name_of(url)
    with _reported(url, missing) as (fs, path), step(public(url), "it is fetched", EnvironmentFailure):
        if fs.isdir(path):
            fs.get(f"{path.rstrip('/')}/", f"{target}/", recursive=True, callback=_callback())
            return target
        fs.get_file(path, str(target), callback=_callback())
        if target.suffix == ".onnx":
            parent = path.rpartition("/")[0]
            for name in (*_locations(target), *_BESIDE):
                if fs.isfile(f"{parent}/{name}"):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    fs.get_file(f"{parent}/{name}", str(folder / name), callback=_callback())
    return target


def upload(target: Path, url: str) -> None:
    """Copy a written file, with the files beside it, or a folder to a URL; nothing where none was written.

    Raises:
        EnvironmentFailure: as `fetch`.
    """
    if not target.exists():
        return
    with (
        _reported(url, EnvironmentFailure) as (fs, path),
        step(public(url), "it is uploaded", EnvironmentFailure),
    ):
        root = target if target.is_dir() else target.parent
        base = path.rstrip("/") if target.is_dir() else path.rpartition("/")[0]
        files = [file for file in sorted(root.rglob("*")) if file.is_file() and file != target]
        for file in [*files, *([target] if target.is_file() else [])]:  # the model after its external data
            own = path if file == target else f"{base}/{file.relative_to(root).as_posix()}"
            fs.makedirs(own.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(file), own, callback=_callback())


def _parts(url: str) -> tuple[str, str]:
    scheme, _, rest = url.partition(":")  # a path that went through pathlib has one slash
    return scheme, ("/" if scheme == "file" else "") + rest.lstrip("/")


def _locations(model: Path) -> Iterator[str]:
    """Yield the names of a model's external data that lie below its folder; its check reports the others."""
    try:
        files = side_files(model)
    except Exception:  # no model: reported where it is loaded
        return
    for file in sorted(files):
        if file.is_relative_to(model.parent) and ".." not in file.relative_to(model.parent).parts:
            yield file.relative_to(model.parent).as_posix()


@contextmanager
def _reported(url: str, missing: type[QtoolError]) -> Iterator[tuple[Any, str]]:
    """Yield the file system and the path of a URL; its errors become ours."""
    shown = public(url)
    if find_spec("fsspec") is None:
        raise EnvironmentFailure(f"{shown}: URLs need fsspec, which is not installed", "pip install fsspec")
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    scheme, rest = _parts(url)
    try:
        fs, path = url_to_fs(f"{scheme}://{rest}")
        yield fs, path
    except (QtoolError, MemoryError):
        raise
    except ImportError as error:
        advice = known_implementations.get(scheme, {}).get("err", "")
        package = re.search(r"[Ii]nstall (?:the )?[\"'`]?([\w-]+)", advice)
        hint = f"pip install {package[1]}" if package else printable(advice)
        raise EnvironmentFailure(f"{shown}: a package for {scheme}:// is not installed", hint) from error
    except FileNotFoundError as error:
        raise missing(f"{shown} does not exist") from error
    except Exception as error:  # each protocol has its own
        text = printable(str(error).replace(url, shown), 160)
        raise EnvironmentFailure(f"{shown} can't be reached: {type(error).__name__}: {text}") from error


def _callback() -> Any:
    """Return what fsspec calls as bytes pass: a heartbeat."""
    from fsspec.callbacks import Callback

    class Beats(Callback):  # type: ignore[misc]
        def call(self, hook_name: str | None = None, **kwargs: Any) -> None:
            beat()

    return Beats()
