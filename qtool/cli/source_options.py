"""The options of reading samples: --preset, --tokenizer, --shape and the like."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from qtool.cli.help import under
from qtool.tables.images import CHANNELS, PRESETS, RESIZES
from qtool.tables.sources import KINDS, LAYOUTS

F = TypeVar("F", bound=Callable[..., Any])

_MOST_NUMBERS = 16


def _option(*names: str, **attributes: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, attributes


def source_help(what: str) -> str:
    """Return the help of an option that takes a source."""
    return (
        f"{what}: a directory of .npz, .npy, images, .wav or ONNX test data; .csv, .parquet, .txt, .jsonl; "
        "Polygraphy's .json; file.py:function; random:N."
    )


def _numbers(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[float, ...]:
    try:
        numbers = tuple(float(n) for n in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(
            f"'{text}' is no list of numbers, such as 123.7,116.3,103.5", ctx, param
        ) from None
    if len(numbers) > _MOST_NUMBERS or not all(abs(n) < 1e9 for n in numbers):
        raise click.BadParameter(f"'{text}': one number, or one a channel", ctx, param)
    if param.name == "std" and not all(n > 0 for n in numbers):
        raise click.BadParameter(f"'{text}': it is divided by, so above 0", ctx, param)
    return numbers


def _shapes(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    by_name: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, _, axes = text.rpartition("=")
        if not re.fullmatch(r"([0-9]{1,9}(,[0-9]{1,9})*)?", axes) or (not axes and not name):
            raise click.BadParameter(f"'{text}' is not [INPUT=]1,3,224,224", ctx, param)
        by_name[name] = tuple(int(a) for a in axes.split(",")) if axes else ()
    return by_name


def _pairs(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    by_name: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise click.BadParameter(f"'{text}' is not NAME=INPUT", ctx, param)
        by_name[old] = new
    return by_name


def _fillings(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, float]:
    by_name: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            by_name[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise click.BadParameter(f"'{text}' is not INPUT=NUMBER", ctx, param)
    return by_name


def _columns(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def _word(ctx: click.Context, param: click.Parameter, text: str | None) -> str:
    return text or ""


def _count(ctx: click.Context, param: click.Parameter, number: int | None) -> int:
    return number or 0


_PRESETS = "; ".join(f"{p.name}: {p.summary}" for p in PRESETS.values())
_RESIZES = "; ".join(f"{name}: {summary}" for name, summary in RESIZES.items())

_OPTIONS = (
    _option(
        "--samples",
        type=click.IntRange(min=1),
        metavar="N",
        callback=_count,
        help="At most N samples of a source, chosen with --seed.",
    ),
    _option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of --samples and of random:N.",
    ),
    _option(
        "--split-batch",
        is_flag=True,
        help="Split files that hold several samples, along the first axis.",
    ),
    _option(
        "--shape",
        multiple=True,
        metavar="[INPUT=]SHAPE",
        callback=_shapes,
        help="The shape of an input with free axes, such as images=1,3,224,224. Repeatable.",
    ),
    _option(
        "--map",
        "rename",
        multiple=True,
        metavar="NAME=INPUT",
        callback=_pairs,
        help="The name of an input in the samples. Repeatable.",
    ),
    _option(
        "--fill",
        multiple=True,
        metavar="INPUT=NUMBER",
        callback=_fillings,
        help="Fill an input that the samples lack with this number. Repeatable.",
    ),
    _option(
        "--layout",
        type=click.Choice(LAYOUTS),
        callback=_word,
        help="The axis order of the samples' arrays, where it differs from the model's.",
    ),
    _option("--preset", type=click.Choice(list(PRESETS)), callback=_word, help=f"images: {_PRESETS}."),
    _option(
        "--mean",
        metavar="NUMBERS",
        callback=_numbers,
        help="images: subtracted from the pixels (0..255, or scaled by --preset): one number, or one per "
        "channel.",
    ),
    _option(
        "--std",
        metavar="NUMBERS",
        callback=_numbers,
        help="images: the divisor, after --mean: one number, or one per channel.",
    ),
    _option(
        "--resize",
        type=click.Choice(list(RESIZES)),
        callback=_word,
        show_default="stretch, or the preset's",
        help=f"images of another size: {_RESIZES}.",
    ),
    _option(
        "--channels",
        type=click.Choice(CHANNELS),
        callback=_word,
        show_default="rgb",
        help="images: the model's channel order.",
    ),
    _option(
        "--tokenizer",
        type=click.Path(path_type=Path),
        metavar="FILE",
        show_default="tokenizer.json beside the model",
        help="text: the tokenizer.",
    ),
    _option(
        "--max-tokens",
        type=click.IntRange(min=1),
        metavar="N",
        callback=_count,
        show_default="the tokenizer's",
        help="text: cut longer texts to this many tokens.",
    ),
    _option(
        "--columns",
        metavar="NAMES",
        callback=_columns,
        help="csv, parquet: the columns to read, as names and globs; '!label' leaves one out.",
    ),
    _option(
        "--rate",
        type=click.IntRange(1, 1_000_000),
        metavar="HZ",
        callback=_count,
        show_default="the files'",
        help="audio: the model's sampling rate.",
    ),
)
NAMES = (
    "samples", "seed", "split_batch", "shape", "rename", "fill", "layout", "preset", "mean", "std",
    "resize", "channels", "tokenizer", "max_tokens", "columns", "rate",
)  # fmt: skip


def source_options(*sources: str, named: str = "", rare: bool = True) -> Callable[[F], F]:
    """Declare the options of all kinds of samples, and `--X-format` for --calib, --data of the command.

    Args:
        named: the name of the source in the help, where it is not an option.
        rare: whether only --help-all shows them.
    """
    declared = under("Reading samples", rare=rare)

    def declare(command: F) -> F:
        forces = tuple(
            _option(
                f"--{source}-format",
                type=click.Choice(list(KINDS)),
                callback=lambda c, p, v: v or "",
                show_default="recognised",
                help=f"The kind of samples that {named or f'--{source}'} names.",
            )
            for source in sources
        )
        for names, attributes in reversed((*forces, *_OPTIONS)):
            command = declared(*names, **attributes)(command)
        return command

    return declare


def source_flags(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the options of reading samples that differ from their defaults, as they are typed."""
    flags: list[str] = []
    for (option, *_), _attributes in _OPTIONS:
        name = "rename" if option == "--map" else option.removeprefix("--").replace("-", "_")
        flags += _typed(option, values[name])
    return tuple(flags)


def _typed(option: str, value: Any) -> list[str]:
    """Return the words of an option with a value; none for a value that is empty."""
    if not value:
        return []
    if value is True:
        return [option]
    if isinstance(value, Mapping):
        rows = [(k, v if isinstance(v, tuple) else (v,)) for k, v in value.items()]
        texts = [f"{k}={','.join(map(str, v))}" if k else ",".join(map(str, v)) for k, v in rows]
        return [word for text in texts for word in (option, text)]
    return [option, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]


def reading_of(values: Mapping[str, Any]) -> Any:
    """Return the Reading that the options describe."""
    from qtool.data.reading import Reading

    return Reading(**{name: values[name] for name in NAMES})
