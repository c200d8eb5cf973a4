"""Run hostile models, samples and outputs, COUNT in all, and count the ends: python -m tests.fuzz.hostile COUNT.

Each named one must be refused in the words of an error, with a code of its kind. Damaged variants of the models
fill up the count; they may also be quantized. tests/fuzz/forked.py judges the ends.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np

from tests.acceptance import test_hostile_external_data, test_hostile_models
from tests.acceptance.hostile import COMMANDS, net, put
from tests.data.test_image_errors import DAMAGED, jpeg
from tests.data.test_npz import BAD_ARCHIVES, NO_ARRAYS, Member, zipped
from tests.fuzz.damage import damage, strange
from tests.fuzz.forked import SCRATCH, command, run
from tests.graphs import model, node, samples, weights, write_samples

MODELS = {**test_hostile_models.ROWS, **test_hostile_external_data.ROWS}
_STEP_SECONDS = 3  # of CPU time: endless inputs take all of them
_STATIC = ("quantize", "m.onnx", "-o", "q.onnx", "--calib")


@dataclass(frozen=True)
class Hostile:
    """A hostile input.

    Args:
        make: writes it into a folder that has samples in calib/.
        codes: the exit codes that are allowed; () for all that are documented.
    """

    name: str
    words: tuple[str, ...]
    make: Callable[[Path], object]
    codes: tuple[int, ...] = (4,)


# Samples: the source as --calib names it, and the contents of its file.
SOURCES: dict[str, bytes] = {
    "nothing.csv": b"",
    "words.csv": b"a,b,c,d\n1,2,3,x\n",
    "short.csv": b"a,b,c,d\n1,2,3\n",
    "binary.csv": bytes(range(256)),
    "wide.csv": b"a," * 100_000 + b"\n" + b"1," * 100_000 + b"\n",
    "half.parquet": b"PAR1" + bytes(100),
    "open.json": b'[{"x": ',
    "deep.json": b"[" * 100_000,
    "no.json": b'{"x": [1, 2, 3, 4]}',
    "lines.jsonl": b'{"text": 1}\n{',
    "words.txt": b"no tokenizer\n",
    "half.wav": b"RIFF\xff\xff\xff\xffWAVEfmt ",
    "half.flac": b"fLaC" + bytes(50),
    "raises.py:read": b"def read():\n    yield {}['x']\n",
    "leaves.py:read": b"import os\ndef read():\n    os._exit(0)\n",
    "stops.py:read": b"import sys\ndef read():\n    sys.exit(0)\n",
    "waits.py:read": b"def read():\n    while True:\n        pass\n",
    "syntax.py:read": b"def read(:\n",
    "empty.py:read": b"",
    "number.py:read": b"def read():\n    return 7\n",
}
# What -o names, with what is made there first.
OUTPUTS: dict[str, Callable[[Path], object] | None] = {
    "/dev/null": None,
    "/dev/full": None,
    "m.onnx": None,
    "calib/../m.onnx": None,
    "calib/000.npz": None,
    "calib": None,
    "calib/": None,
    "none/q.onnx": None,
    "m.onnx/q.onnx": None,
    "d/" * 2000 + "q.onnx": None,
    "x" * 300: None,
    "\udcff.onnx": None,
    "pipe": os.mkfifo,
    "disk": lambda path: path.symlink_to("/dev/full"),
    "link": lambda path: path.symlink_to("m.onnx"),
    "twin": lambda path: path.hardlink_to(path.with_name("m.onnx")),
    "loop": lambda path: path.symlink_to("loop"),
    "nowhere": lambda path: path.symlink_to("none/q.onnx"),
}


def hostile() -> Iterator[Hostile]:
    """Yield every named one."""
    for number, (name, row) in enumerate(MODELS.items()):
        words = COMMANDS[row.commands[number % len(row.commands)]]
        yield Hostile(name, tuple(words), row.make, row.codes)
    for name, (data, _) in NO_ARRAYS.items():
        yield sample(f"npy: {name}", "000.npy", data, alone=True)
        yield sample(f"npz: {name}", "000.npz", zipped(Member("x.npy", data)))
    for name, (made, _) in BAD_ARCHIVES.items():
        yield sample(f"npz: {name}", "000.npz", made())
    for name, (file, spoil) in DAMAGED.items():
        yield Hostile(f"image: {name}", (*_STATIC, "images", "--preset", "raw"), image(file, spoil))
    for name, data in SOURCES.items():
        yield Hostile(
            name, (*_STATIC, name), beside_net(partial(write, name.partition(":")[0], data)), (2, 4, 5)
        )
    for name, prepare in OUTPUTS.items():
        # --force replaces a link, and not its target.
        force = () if name in ("loop", "nowhere") else ("--force",)
        words = ("quantize", "m.onnx", "-o", name, "--calib", "calib", *force)
        yield Hostile(f"output: {name[:20]!r}", words, beside_net(partial(at, name, prepare)), (2, 3, 5))


def write(file: str, data: bytes, folder: Path) -> None:
    (folder / file).write_bytes(data)


def at(name: str, prepare: Callable[[Path], object] | None, folder: Path) -> None:
    if prepare is not None:
        prepare(folder / name)


def beside_net(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """The same, beside a valid model."""

    def both(folder: Path) -> None:
        put(folder, net())
        make(folder)

    return both


def sample(name: str, file: str, data: bytes, *, alone: bool = False) -> Hostile:
    """A hostile sample among good ones, or alone."""

    def make(folder: Path) -> None:
        if alone:
            shutil.rmtree(folder / "calib")
            (folder / "calib").mkdir()
        (folder / "calib" / file).write_bytes(data)

    return Hostile(name, (*_STATIC, "calib"), beside_net(make))


def image(file: str, spoil: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        images = folder / "images"
        images.mkdir()
        (images / file).write_bytes(spoil(jpeg(images)))
        constants = {"w": weights(4, 3, 1, 1)}
        put(folder, model([node("Conv", ["x", "w"], ["y"])], {"x": (1, 3, 5, 6)}, ["y"], constants))

    return make


def variants(chance: random.Random) -> Iterator[Hostile]:
    """Yield damaged variants of the models, and samples of other shapes, types and values, without end."""
    rows = list(MODELS.values())

    def damaged(folder: Path) -> None:
        chance.choice(rows).make(folder)
        file = folder / "m.onnx"
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 20:
            file.write_bytes(damage(file.read_bytes(), chance))

    def odd(folder: Path) -> None:
        (one,) = samples(1, x=(1, 4))
        np.savez(folder / "calib" / "001.npz", **strange(one, chance))

    while True:
        yield Hostile("damaged model", tuple(command(chance)), damaged, ())
        yield Hostile("strange sample", (*_STATIC, "calib"), beside_net(odd), ())


def one(case: Hostile, ends: Counter[str]) -> str:
    """Run a case; return its fault, '' for none."""
    folder = SCRATCH / "case" / "in"
    shutil.rmtree(folder.parent, ignore_errors=True)
    write_samples(folder / "calib", samples(4, x=(1, 4)))
    (folder.parent / "w.bin").write_bytes(weights(4, 300).tobytes())  # a model may name it
    case.make(folder)
    outcome = run(list(case.words), folder, _STEP_SECONDS)
    ends[f"exit {outcome.code}"] += 1
    refused = not case.codes or outcome.code in case.codes
    wrong = outcome.wrong or ("" if refused else f"exit {outcome.code}")
    return f"{wrong}: qtool {' '.join(case.words)[:200]}: {outcome.stderr.strip()[:300]}" if wrong else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the damaged variants")
    options = parser.parse_args()
    os.environ |= {"QTOOL_TIMING": "table", "QTOOL_EFFORT": "fast"}
    ends: Counter[str] = Counter()
    cases = chain(hostile(), variants(random.Random(options.seed)))
    bad = 0
    try:
        for number, case in enumerate(islice(cases, options.count)):
            if fault := one(case, ends):
                bad += 1
                print(f"{number} {case.name}: {fault!r}", flush=True)
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
    print(f"{options.count} hostile inputs: {', '.join(f'{n} {end}' for end, n in sorted(ends.items()))}; {bad} ended badly")  # fmt: skip
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
