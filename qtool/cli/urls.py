"""URLs of models, samples and outputs. To all behind the shell they are files in a temporary folder."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from qtool.cli.types import OutputType, SourceType, is_url
from qtool.errors import DataError, ModelError, UsageError


@contextlib.contextmanager
def local_files(
    ctx: click.Context, names: dict[Path, str], make_folder: Callable[[contextlib.ExitStack], Path]
) -> Iterator[None]:
    """Replace URLs in the parameters by local files, and upload the outputs at the end.

    Args:
        ctx: of the command.
        names: local file -> its name in messages; the URLs are added to it.
        make_folder: makes a temporary folder that a stack removes.

    Raises:
        QtoolError: ModelError or DataError where nothing is behind a URL, EnvironmentFailure where it can't
            be reached, UsageError where an output exists or is an input.
    """
    _check(ctx)
    with contextlib.ExitStack() as stack:
        outputs: list[tuple[Path, str]] = []

        def local(param: click.Parameter, value: Any) -> Any:
            if not is_url(value):
                return value
            from qtool.graph.remote import fetch, name_of, placeholders, public

            url, place = str(value), make_folder(stack)
            if _writes(ctx, param):
                path: Path = place / name_of(url)
                if placeholders(url, path) and not ctx.params.get("force"):
                    raise UsageError(f"output '{public(url)}' exists", "add --force to replace it")
                outputs.append((path, url))
            elif isinstance(param.type, SourceType):
                path = fetch(url, place, DataError)
            else:
                from qtool.commands.folder_files import unneeded

                path = fetch(url, place, ModelError, unneeded)
            names[path] = public(url)
            return str(path) if isinstance(value, str) else path

        for param, value in _paths(ctx):
            many = isinstance(value, tuple)
            ctx.params[str(param.name)] = (
                tuple(local(param, v) for v in value) if many else local(param, value)
            )
        yield
        for path, url in outputs:
            from qtool.graph.remote import upload

            upload(path, url)


def _check(ctx: click.Context) -> None:
    """Check that no output is a model that is read, or lies in a folder of models: copies would hide it."""
    urls = [
        (_writes(ctx, param), isinstance(param.type, SourceType), str(url))
        for param, value in _paths(ctx)
        for url in (value if isinstance(value, tuple) else (value,))
        if is_url(url)
    ]
    for output in (url for writes, _, url in urls if writes):
        from qtool.graph.remote import one_in_other, public

        for model in (url for writes, samples, url in urls if not (writes or samples)):
            if one_in_other(output, model):
                raise UsageError(
                    f"output '{public(output)}' and the input '{public(model)}' lie in each other",
                    "write beside it",
                )


def _paths(ctx: click.Context) -> list[tuple[click.Parameter, Any]]:
    """Return the parameters that name files, with their values."""
    return [
        (param, ctx.params[param.name])
        for param in ctx.command.params
        if isinstance(param.type, (click.Path, SourceType)) and param.name in ctx.params
    ]


def _writes(ctx: click.Context, param: click.Parameter) -> bool:
    """Return whether a parameter names an output."""
    return isinstance(param.type, OutputType) or param.name == "output"
