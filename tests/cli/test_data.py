"""`qtool data`, and images and texts through the commands that take samples, as a user runs them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from tests.cli.program import run
from tests.data import tokenizers
from tests.graphs import model, node, samples, weights, write_samples


@dataclass(frozen=True)
class Place:
    """A model of images, one of texts with its tokenizer beside it, and samples for each."""

    images: Path
    photos: Path
    texts: Path
    lines: Path
    arrays: Path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("data")
    workplace = Place(
        *(folder / n for n in ("i/model.onnx", "photos", "t/model.onnx", "lines.txt", "arrays"))
    )
    for path, made in ((workplace.images, convolution()), (workplace.texts, classifier())):
        path.parent.mkdir()
        onnx.save(made, path)
    tokenizers.save(workplace.texts.parent)
    workplace.photos.mkdir()
    for index in range(9):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(workplace.photos / f"{index}.png")
    workplace.lines.write_text("".join(f"the cat sat {'on the mat ' * i}\n" for i in range(9)))
    write_samples(workplace.arrays, samples(9, x=(1, 3, 16, 16)))
    return workplace


def convolution() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "v"], ["d"], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["d"], ["y"]),
    ]
    constants = {"w": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3, seed=1)}
    return model(nodes, {"x": ["n", 3, 16, 16]}, ["y"], constants)


def classifier() -> onnx.ModelProto:
    """Token ids to a row of a table each, masked, multiplied, summed."""
    nodes = [
        node("Gather", ["table", "input_ids"], ["rows"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["wide"]),
        node("Mul", ["rows", "wide"], ["kept"]),
        node("MatMul", ["kept", "w"], ["m"]),
        node("ReduceSum", ["m", "middle"], ["y"], keepdims=0),
    ]
    constants = {
        "table": weights(9, 32), "w": weights(32, 16, seed=1),
        "last": np.array([-1], np.int64), "middle": np.array([1], np.int64),
    }  # fmt: skip
    shape = ["n", "s"]
    return model(
        nodes,
        {"input_ids": shape, "attention_mask": shape},
        {"y": ["n", 16]},
        constants,
        input_type=TensorProto.INT64,
    )


def arguments(place: Place, kind: str) -> list[Any]:
    return {
        "images": [place.photos, "--model", place.images, "--preset", "unit"],
        "text": [place.lines, "--model", place.texts],
        "npz": [place.arrays, "--model", place.images],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("images", ["9 samples of the kind images", "16 x 16", "x / 255: 0 to 1 (--preset)", "channel 2", "0.png"]),
        ("text", ["9 samples of the kind text", "tokenizer.json", "[1, 5..29] (9 shapes)", "lines.txt:1", "1, 3, 4, 5"]),
        ("npz", ["9 samples of the kind npz", "float32 [n, 3, 16, 16]", "000.npz"]),
    ],
)  # fmt: skip
def test_the_table_shows_shapes_and_values(place: Place, kind: str, words: list[str]) -> None:
    done = run("data", *arguments(place, kind))
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout


@pytest.mark.parametrize("kind", ["images", "text", "npz"])
def test_json_is_one_document(place: Place, kind: str) -> None:
    done = run("data", *arguments(place, kind), "--json", "--samples", 5)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert (document["schema"], document["kind"]) == ("qtool.data/1", kind)
    assert (document["samples"], document["looked"], len(document["head"])) == (9, 5, 3)


def test_quiet_prints_warnings_only(place: Place) -> None:
    done = run("data", place.photos, "--model", place.images, "--std", "1", "-q")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("warning: input 'x' holds numbers from ")
    assert "looks unnormalised" in done.stderr


def test_warnings_are_on_stderr_and_in_the_document(place: Place) -> None:
    done = run("data", place.photos, "--model", place.images, "--std", "1", "--json")
    assert done.stderr == f"warning: {json.loads(done.stdout)['warnings'][0]}\n"


@pytest.mark.parametrize("kind", ["images", "text"])
def test_the_other_commands_take_the_same_samples(place: Place, kind: str, tmp_path: Path) -> None:
    source, _, path, *options = arguments(place, kind)
    ranges, out = tmp_path / "ranges.json", tmp_path / "int8.onnx"
    done = run("calibrate", path, "--calib", source, "-o", ranges, *options, "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert json.loads(ranges.read_text())["samples"] == 9
    done = run(
        "quantize", path, "-o", out, "--calib", source, *options, "--target", "generic", "--threads", 1
    )
    assert done.returncode == 0, done.stderr
    done = run("compare", path, out, "--data", source, *options, "--fail-if", "sqnr<15", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["comparison"]["samples"] == 9


@pytest.mark.parametrize("above", ["", 'data = "elsewhere"\npreset = "unit"\n'], ids=["[data]", "data ="])
def test_options_may_stand_in_a_file(place: Place, above: str, tmp_path: Path) -> None:
    """`data` is an option of other commands, and a command itself; TOML takes one of them in a file."""
    table = f'[data]\nmodel = "{place.images}"\npreset = "unit"\nsamples = 4\n'
    (tmp_path / "qtool.toml").write_text(above or table)
    more = ["--model", place.images, "--samples", 4] if above else []
    done = run("data", place.photos, "--json", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["looked"] == 4


# Typical mistakes


@pytest.mark.parametrize(
    ("words", "code", "message", "hint"),
    [
        (["photos"], 2, "can't be guessed", "--preset raw|unit|signed|imagenet, or --mean and --std"),
        (["photos", "--mean", "0.5", "--std", "0.5"], 2, "pixels in 0..1", "--preset unit"),
        (["photos", "--preset", "unitt"], 2, "unitt", ""),
        (["photos", "--preset", "unit", "--mean", "1,2"], 2, "outside", "leave out --preset"),
        (["photos", "--mean", "1,2"], 2, "pixels in 0..1", "--preset unit"),
        (["photos", "--preset", "unit", "--tokenizer", "t.json"], 2, "--tokenizer is for samples of the kind text", ""),
        (["photos", "--preset", "unit", "--shape", "x=1,3,8,8"], 2, "--shape x=1,3,8,8", ""),
        (["photos", "--preset", "unit", "--fill", "mask=1"], 2, "no input 'mask'", "inputs: x"),
        (["photoz", "--preset", "unit"], 4, "'photoz' does not exist", "did you mean 'photos'?"),
        (["lines.txt"], 2, "no input of the model is known to take token ids: 'x' float32", "input_ids"),
        (["broken", "--preset", "unit"], 4, "broken/0.jpg: ", ""),
        (["notes", "--preset", "unit"], 4, "holds no samples", ""),
        (["arrays", "--preset", "unit"], 2, "--preset is for samples of the kind images", ""),
        (["transposed"], 4, "(1, 16, 16, 3)", "--layout nhwc"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_mistakes_with_images(
    place: Place, tmp_path: Path, words: list[str], code: int, message: str, hint: str
) -> None:
    for name in ("photos", "lines.txt", "arrays"):
        (tmp_path / name).symlink_to(place.photos.parent / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"\0" * 100)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.md").touch()
    write_samples(tmp_path / "transposed", samples(1, x=(1, 16, 16, 3)))
    check(run("data", *words, "--model", place.images, cwd=tmp_path), code, message, hint)


@pytest.mark.parametrize(
    ("content", "tokenizer", "code", "message", "hint"),
    [
        ("the cat", None, 2, "texts need the model's tokenizer", "--tokenizer FILE"),
        ("the cat", "none.json", 4, "none.json", ""),
        ("the cat", "vocab.txt", 4, "vocab.txt: not a tokenizer", "tokenizer.json of Hugging Face's"),
        ("the w49", "other.json", 4, "a.txt:1: input 'input_ids' holds 58; the model looks it up in a table of 9", "another model's"),
        ("", "small.json", 4, "a.txt: no text: every line is blank", ""),
        ("\n\n", "small.json", 4, "a.txt: no text: every line is blank", ""),
        ("the\n\xff", "small.json", 4, "a.txt:2: not UTF-8", "save it as UTF-8"),
    ],
)  # fmt: skip
def test_mistakes_with_texts(
    tmp_path: Path, content: str, tokenizer: str | None, code: int, message: str, hint: str
) -> None:
    onnx.save(classifier(), tmp_path / "model.onnx")
    (tmp_path / "a.txt").write_bytes(content.encode("latin-1"))
    (tmp_path / "vocab.txt").write_text("the\ncat\n")
    tokenizers.save(tmp_path, name="small.json")
    other = tokenizers.small()
    other.add_tokens([f"w{i}" for i in range(50)])
    tokenizers.save(tmp_path, other, "other.json")
    named = ["--tokenizer", tokenizer] if tokenizer else []
    check(run("data", "a.txt", "--model", "model.onnx", *named, cwd=tmp_path), code, message, hint)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["data"], 2, "SRC"),
        (["data", "photos"], 2, "--model"),
        (["data", "photos", "--model", "none.onnx"], 3, "none.onnx"),
        (["data", "photos", "--model", "photos"], 3, "photos"),
        (["data", "photos", "--model", "none.onnx", "--data-format", "jpeg"], 2, "jpeg"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes_with_the_command(
    place: Place, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "photos").symlink_to(place.photos)
    check(run(*words, cwd=tmp_path), code, message, "")


def check(done: Any, code: int, message: str, hint: str) -> None:
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") <= 2
    assert message in done.stderr
    assert hint in done.stderr.partition("hint: ")[2]


def test_help_has_examples_and_imports_nothing_heavy() -> None:
    done = run("data", "--help")
    assert "qtool data photos/ --model model.onnx --preset imagenet" in done.stdout
    assert "The kind of samples that SRC names" in done.stdout
