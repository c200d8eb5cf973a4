"""Files behind URLs: copied here before the work, and back after it. fsspec knows the protocols."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

from qtool.errors import EnvironmentFailure, QtoolError, printable
from qtool.graph.share import side_files
from qtool.runtime.heartbeat import beat, step

# What may lie beside a model, and tell how its samples are read.
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")

# Protocols whose first folder is a bucket, which making a folder below it would create.
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "oss")


def public(url: str) -> str:
    """Return a URL for messages: without a user, a password and a query."""
    scheme, rest = _parts(url)
    return printable(f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}")


def name_of(url: str) -> str:
    """Return the last part of a URL's path."""
    return PurePosixPath(_parts(url)[1].partition("?")[0]).name or "remote"


def fetch(
    url: str,
    folder: Path,
    missing: type[QtoolError],
    unneeded: Callable[[Sequence[str]], Collection[str]] = lambda names: (),
) -> Path:
    """Copy a file or a folder to a folder, and return its path there; of a model also its external data.

    Args:
        url: of the file or folder.
        folder: an empty one.
        missing: the error where nothing is there.
        unneeded: returns the files of a folder that come empty: only their names matter.

    Raises:
        QtoolError: `missing`.
        EnvironmentFailure: fsspec or the package of the protocol is not installed, or access fails; a name
            leads out of the folder.
    """
    target = folder / name_of(url)
    with _reported(url, missing) as (fs, path), step(public(url), "it is fetched", EnvironmentFailure):
        if fs.isdir(path):
            names = _names(fs, path)
            empty = set(unneeded(list(names)))
            for name in names:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                if name in empty:
                    (target / name).touch()
            needed = {name: own for name, own in names.items() if name not in empty}
            _copy(fs.get, list(needed.values()), [str(target / name) for name in needed])
            target.mkdir(exist_ok=True)
            return target
        _copy(fs.get_file, path, str(target))
        if target.suffix == ".onnx":
            parent = path.rpartition("/")[0]
            for name in (*_locations(target), *_BESIDE):
                if fs.isfile(f"{parent}/{name}"):
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                    _copy(fs.get_file, f"{parent}/{name}", str(folder / name))
    return target


def upload(target: Path, url: str) -> None:
    """Copy a written file, with the files beside it, or a folder to a URL; placeholders alone are not copied.

    Models go last. What an earlier result has in the folder, and this one has not, is removed in the end.

    Raises:
        EnvironmentFailure: as `fetch`.
    """
    if not target.exists():
        return
    with (
        _reported(url, EnvironmentFailure) as (fs, path),
        step(public(url), "it is uploaded", EnvironmentFailure),
    ):
        is_folder = target.is_dir()
        root, base = (target, path.rstrip("/")) if is_folder else (target.parent, path.rpartition("/")[0])
        files = {
            file: path if file == target else f"{base}/{file.relative_to(root).as_posix()}"
            for file in sorted(root.rglob("*"))
            if file.is_file()
        }
        if not any(file.stat().st_size for file in files):  # placeholders
            return
        old = _names(fs, base).values() if is_folder and fs.isdir(base) else ()
        models = {file: own for file, own in files.items() if file == target or file.suffix == ".onnx"}
        for part in ({file: own for file, own in files.items() if file not in models}, models):
            if _parts(url)[0] not in _BUCKETS:
                for parent in sorted({own.rpartition("/")[0] for own in part.values()}):
                    fs.makedirs(parent, exist_ok=True)
            _copy(fs.put, [str(file) for file in part], list(part.values()))
        for own in {*old} - {*files.values()}:
            fs.rm_file(own)
            beat()


def placeholders(url: str, target: Path) -> bool:
    """Make empty files at a path, with the names of those behind a URL, for the checks of a local output.

    Returns:
        Whether there are any.

    Raises:
        EnvironmentFailure: as `fetch`.
    """
    with _reported(url, EnvironmentFailure) as (fs, path):
        scheme, bucket = _parts(url)[0], path.partition("/")[0]
        if scheme in _BUCKETS and not fs.exists(bucket):
            raise EnvironmentFailure(f"{scheme}://{bucket} does not exist", "create the bucket first")
        names = _names(fs, path) if fs.isdir(path) else {"": path} if fs.exists(path) else {}
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).touch()
        return bool(names)


def one_in_other(url: str, other: str) -> bool:
    """Return whether two URLs are the same, or one is of a folder around the other."""
    a, b = (
        (scheme, *PurePosixPath(rest.partition("?")[0]).parts) for scheme, rest in map(_parts, (url, other))
    )
    return a[: len(b)] == b or b[: len(a)] == a


def _names(fs: Any, path: str) -> dict[str, str]:
    """Return the files below a folder: relative name -> path.

    Raises:
        EnvironmentFailure: a name leads out of the folder.
    """
    base, names = f"{path.rstrip('/')}/", {}
    for own in sorted(fs.find(path)):
        name = own.removeprefix(base)
        if name == own or not {"..", ""}.isdisjoint(name.split("/")):
            raise EnvironmentFailure(f"'{printable(own)}' leads out of its folder", "rename it there")
        names[name] = own
    return names


def _copy(function: Callable[..., Any], source: str | list[str], target: str | list[str]) -> None:
    """Call a copying method of a file system; its lists may be empty."""
    if source:
        function(source, target, callback=_callback())


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
