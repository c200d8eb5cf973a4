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
            be reached, UsageError where an output exists.
    """
    with contextlib.ExitStack() as stack:
        outputs: list[tuple[Path, str]] = []

        def local(param: click.Parameter, value: Any) -> Any:
            if not is_url(value):
                return value
            from qtool.graph.remote import exists, fetch, name_of, public

            url, place = str(value), make_folder(stack)
            if _writes(ctx, param):
                path: Path = place / name_of(url)
                if exists(url) and not ctx.params.get("force"):
                    raise UsageError(f"output '{public(url)}' exists", "add --force to replace it")
                outputs.append((path, url))
            else:
                path = fetch(url, place, DataError if isinstance(param.type, SourceType) else ModelError)
            names[path] = public(url)
            return str(path) if isinstance(value, str) else path

        for param in ctx.command.params:
            if isinstance(param.type, (click.Path, SourceType)) and param.name in ctx.params:
                value = ctx.params[param.name]
                many = isinstance(value, tuple)
                ctx.params[param.name] = (
                    tuple(local(param, v) for v in value) if many else local(param, value)
                )
        yield
        for path, url in outputs:
            from qtool.graph.remote import upload

            upload(path, url)


def _writes(ctx: click.Context, param: click.Parameter) -> bool:
    """Return whether a parameter names an output."""
    return isinstance(param.type, OutputType) or param.name == "output"
