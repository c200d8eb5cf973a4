"""The files that qtool writes and reads again, for the fuzzer to damage: plans, reports, ranges, cost tables ..

The program itself makes each, so that a new field or schema is covered without an edit here.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tests.fuzz.damage import FLOATS, NUMBERS, WORDS, damage
from tests.fuzz.forked import SCRATCH, run
from tests.fuzz.seeds import Seed
from tests.graphs import write_samples

_DEEP = 100_000  # levels: more than a recursive reader can take


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        made: the command that writes it, without the file's name at the end; none: the package has it.
        read: commands that read it, without its name at the end.
    """

    made: str
    read: tuple[str, ...]


_QUANTIZE = "quantize m.onnx -o q.onnx --force --target generic"
_STATIC = f"{_QUANTIZE} --calib calib"
_REPLAY = (f"{_QUANTIZE} --plan", f"{_STATIC} --plan")
_RENDER = tuple(f"report {more}" for more in ("", "-v", "--json", "--format markdown", "--format junit", "--format csv", "--fail-if sqnr<20"))  # fmt: skip
_COMPARE = "compare good-m.onnx m.onnx --data calib"
KINDS = {
    "static.plan.json": Kind(f"{_STATIC} --include * --save-plan", _REPLAY),
    "fp16.plan.json": Kind(f"{_STATIC} --mode fp16 --save-plan", _REPLAY),
    "dynamic.plan.json": Kind(f"{_QUANTIZE} --mode dynamic --include * --save-plan", _REPLAY),
    "weights.plan.json": Kind(f"{_QUANTIZE} --mode weight-only --bits 4 --include * --save-plan", _REPLAY),
    "run.json": Kind(f"{_STATIC} --report", _RENDER),
    "comparison.json": Kind(f"{_COMPARE} --report", _RENDER),
    "ranges.json": Kind(
        "calibrate m.onnx --calib calib --target generic -o",
        (f"{_QUANTIZE} --ranges", f"{_STATIC} --method mse --ranges", "calibrate --merge -o q.onnx"),
    ),
    "costs.json": Kind("", (f"{_STATIC} --timing table --costs",)),
    "reference.npz": Kind(f"{_COMPARE} --save-ref", ("compare m.onnx --data calib --load-ref",)),
}  # fmt: skip


def documents(seeds: Sequence[Seed]) -> Iterator[Seed]:
    """Yield each seed with each kind of file that can be made of it.

    Raises:
        RuntimeError: the program does not make one.
    """
    folder = SCRATCH / "documents"
    for seed in seeds:
        for name, kind in KINDS.items():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            lay(folder, seed)
            if kind.made:
                outcome = run([*kind.made.split(), name], folder)
                if not (folder / name).exists():
                    raise RuntimeError(f"{seed.name}: {kind.made}: {outcome.stderr}")
                data = (folder / name).read_bytes()
            else:
                data = (files("qtool") / "tables" / "costs" / "cpu.json").read_bytes()
            yield Seed(f"{seed.name}-{name}", seed.files, seed.samples, (name, data))
    shutil.rmtree(folder)


def lay(folder: Path, seed: Seed) -> None:
    """Write the files of a seed, and its models again as they were."""
    for name, data in seed.files.items():
        (folder / name).write_bytes(data)
        (folder / f"good-{name}").write_bytes(data)
    write_samples(folder / "calib", seed.samples)


def reading(name: str, chance: random.Random) -> list[str]:
    """A command that reads a file of this name."""
    return [*chance.choice(KINDS[name].read).split(), name]


def garbled(data: bytes, chance: random.Random) -> bytes:
    """A document with some of its values changed, or its bytes."""
    try:
        document = json.loads(data)
    except ValueError:
        return damage(data, chance)
    if chance.random() < 0.25:
        return damage(data, chance)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        places = list(_places(document))
        if not places:
            break
        container, key = chance.choice(places)
        match chance.randrange(4):
            case 0:
                del container[key]
            case 1 if isinstance(container, list):
                container.insert(key, container[key])
            case 1:
                container[chance.choice(WORDS)] = container[key]
            case _:
                container[key] = _other(container[key], chance)
    text = json.dumps(document)
    if chance.random() < 0.02:
        text = "[" * _DEEP + text + "]" * _DEEP
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every value inside a document, as the container and the key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _other(value: Any, chance: random.Random) -> Any:
    """Another value: mostly of the same type, and in its usual range or far beyond."""
    if chance.random() < 0.2:
        return chance.choice((None, True, 0, -1.5, "", [], {}, [value], {"x": value}))
    match value:
        case bool():
            return not value
        case int():
            return chance.choice((*NUMBERS, value + 1, value * 2, 10**400, float(value)))
        case float():
            return chance.choice((*FLOATS, value * 1000, -value, value / 3))
        case str():
            return chance.choice((*WORDS, "inf", "nan", "\ud800", value[:-1], value + "x", value.upper()))
        case list():
            return chance.choice((value * 2, value[::-1], value[1:]))
    return None
