"""Every kind of samples through the installed program, and the mistakes that people make with each.

Images and texts: test_data.py.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from onnx import numpy_helper

from qtool.tables.sources import KINDS
from tests.cli.program import run
from tests.graphs import model, node, samples, weights, write_samples

ROWS = [sample["x"] for sample in samples(12, x=(1, 16))]


def net(**inputs: list) -> onnx.ModelProto:
    """Two layers on x [N, 16]; other inputs are added to what they give."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "v"], ["m"]),
        node("Add", ["m", "s"], ["y"]) if "s" in inputs else node("Identity", ["m"], ["y"]),
    ]
    constants = {"w": weights(16, 32), "v": weights(32, 8, seed=1)}
    return model(nodes, {"x": ["N", 16], **inputs}, ["y"], constants)


def as_npz(folder: Path) -> str:
    return str(write_samples(folder, [{"x": row} for row in ROWS]))


def as_npy(folder: Path) -> str:
    for index, row in enumerate(ROWS):
        np.save(folder / f"{index}.npy", row)
    return str(folder)


def as_onnx(folder: Path) -> str:
    for index, row in enumerate(ROWS):
        (folder / f"test_data_set_{index}").mkdir()
        tensor = numpy_helper.from_array(row, "x")
        (folder / f"test_data_set_{index}" / "input_0.pb").write_bytes(tensor.SerializeToString())
    return str(folder)


def as_audio(folder: Path) -> str:
    soundfile.write(folder / "a.wav", np.concatenate(ROWS, axis=1)[0] / 4, 8000)
    return str(folder)


def as_csv(folder: Path) -> str:
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow([*(f"c{i}" for i in range(16)), "name"])
        writer.writerows([*row[0].tolist(), "a, b"] for row in ROWS)
    return str(folder / "t.csv")


def as_parquet(folder: Path) -> str:
    pq.write_table(pa.table({"x": [row[0].tolist() for row in ROWS]}), folder / "t.parquet")
    return str(folder / "t.parquet")


def as_polygraphy(folder: Path) -> str:
    feeds = []
    for row in ROWS:
        stream = io.BytesIO()
        np.save(stream, row)
        text = base64.b64encode(stream.getvalue()).decode()
        feeds.append({"x": {"array": text, "polygraphy_class": "ndarray"}})
    (folder / "inputs.json").write_text(json.dumps(feeds))
    return str(folder / "inputs.json")


def as_python(folder: Path) -> str:
    (folder / "calib.py").write_text(
        "import numpy as np\n"
        "print('printed by the code')\n"
        "def rows():\n"
        "    for k in range(12):\n"
        "        yield {'x': np.random.default_rng(k).standard_normal((1, 16)).astype('f4')}\n"
        "def bad():\n"
        "    yield {'x': np.zeros((1, 16), 'f4')}\n"
        "    raise ValueError('out of rows')\n"
    )
    return str(folder / "calib.py:rows")


def as_random(folder: Path) -> str:
    return "random:12"


SAVE: dict[str, Callable[[Path], str]] = {
    "npz": as_npz,
    "npy": as_npy,
    "onnx": as_onnx,
    "audio": as_audio,
    "csv": as_csv,
    "parquet": as_parquet,
    "polygraphy": as_polygraphy,
    "python": as_python,
    "random": as_random,
}


@dataclass(frozen=True)
class Place:
    """A model, one of two inputs, and the samples of each kind."""

    folder: Path
    model: Path
    two: Path
    samples: dict[str, str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("sources")
    made = {}
    for kind, save in SAVE.items():
        (folder / kind).mkdir()
        made[kind] = save(folder / kind)
    workplace = Place(folder, folder / "model.onnx", folder / "two.onnx", made)
    onnx.save(net(), workplace.model)
    onnx.save(net(s=["N", 1]), workplace.two)
    return workplace


def test_every_kind_is_tried_here_or_with_images_and_texts() -> None:
    assert SAVE.keys() | {"images", "text"} == KINDS.keys()


def test_a_model_is_quantized_with_samples_of_any_kind(place: Place, tmp_path: Path) -> None:
    """Kinds that hold the same numbers give the same model."""
    models = {}
    for kind, source in place.samples.items():
        out = tmp_path / f"{kind}.onnx"
        done = run("quantize", place.model, "-o", out, "--calib", source, "--target", "generic", "--json")
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)  # whatever the user's code prints
        assert document["comparison"]["samples"] == 4, kind
        onnx.checker.check_model(str(out), full_check=True)
        assert ("random data" in done.stderr) == (kind == "random")
        models[kind] = out.read_bytes()
    assert len({models[kind] for kind in ("npz", "npy", "onnx", "csv", "parquet", "polygraphy")}) == 1


@pytest.mark.parametrize("command", ["calibrate", "compare"])
def test_the_other_commands_take_them_too(place: Place, command: str, tmp_path: Path) -> None:
    arguments = {
        "calibrate": [place.model, "--calib", place.samples["csv"], "-o", tmp_path / "r.json"],
        "compare": [place.model, place.model, "--data", place.samples["csv"]],
    }[command]
    done = run(command, *arguments)
    assert done.returncode == 0, done.stderr


# What people get wrong: arguments after the model, the exit code, what the message and the hint say.
MISTAKES: dict[str, tuple[list[str], int, str, str]] = {
    "npy for two inputs": (["two", "--calib", "{npy}"], 4, "the model has 2 inputs (x, s)", ".npz"),
    "onnx without inputs": (["model", "--calib", "{folder}/outputs"], 4, "no file input_N.pb", "test_data_set_0/input_0.pb"),
    "a table with a column too many": (["model", "--calib", "{folder}/label.csv"], 4, "17 columns for the input 'x', which takes 16", "--columns '!label'"),
    "a column that is not there": (["model", "--calib", "{csv}", "--columns", "!nme"], 2, "no column 'nme'", "did you mean 'name'?"),
    "a cell that is no number": (["model", "--calib", "{folder}/cell.csv"], 4, "cell.csv, row 2, column 'c1': 'n/a' is no number", ""),
    "parquet that is none": (["model", "--calib", "{folder}/bad.parquet"], 4, "bad.parquet: not readable", ""),
    "a recording that is none": (["model", "--calib", "{folder}/bad.wav"], 4, "bad.wav: not readable", ""),
    "a recording for two inputs": (["two", "--calib", "{audio}"], 2, "2 inputs take a waveform", "--fill 's=0'"),
    "a rate for a table": (["model", "--calib", "{csv}", "--rate", "8000"], 2, "--rate is for samples of the kind audio; the samples here are csv", ""),
    "any json": (["model", "--calib", "{folder}/any.json"], 4, "'x' is no array that Polygraphy saved", ""),
    "a file that is not there": (["model", "--calib", "{folder}/python/calip.py:rows"], 4, "does not exist", "did you mean 'calib.py'?"),
    "a function that is not there": (["model", "--calib", "{folder}/python/calib.py:row"], 2, "has no 'row'", "did you mean 'rows'?"),
    "no function": (["model", "--calib", "{folder}/python/calib.py"], 2, "which function of it?", "calib.py:FUNCTION"),
    "code that fails": (["model", "--calib", "{folder}/python/calib.py:bad"], 4, "calib.py:8: ValueError: out of rows", ""),
    "how much chance": (["model", "--calib", "random:"], 2, "'random:': how many samples?", "random:32"),
    "chance for an open shape": (["open", "--calib", "random:4"], 2, "leaves the shape of the input 'x' open", "--shape x=1,16"),
    "an input that is not there": (["model", "--calib", "{npz}", "--map", "x=X"], 2, "--map: the model has no input 'X'", ""),
    "a name that is not there": (["model", "--calib", "{npz}", "--map", "y=x"], 4, "has no 'y' to be mapped", "it has: x"),
    "an input that samples lack": (["two", "--calib", "{npz}"], 4, "has no input 's' (it has: x)", "--fill 's=0'"),
    "a fill that samples have": (["model", "--calib", "{npz}", "--fill", "x=0"], 4, "has 'x' itself", "leave out --fill"),
    "a stacked file": (["fixed", "--calib", "{folder}/stacked.npz"], 4, "looks like a batch of 3|has shape (3, 16)", "--split-batch"),
    "another kind by force": (["model", "--calib", "{npz}", "--calib-format", "npy"], 4, "holds no .npy file", ""),
}  # fmt: skip


@pytest.fixture(scope="module")
def bad(place: Place) -> Path:
    folder = place.folder
    (folder / "outputs").mkdir()
    (folder / "outputs" / "output_0.pb").write_bytes(b"")
    names = ",".join(f"c{i}" for i in range(16))
    (folder / "label.csv").write_text(f"{names},label\n" + ",".join("1" * 17))
    (folder / "cell.csv").write_text(f"{names}\n" + ",".join("1" * 16) + "\n1,n/a," + ",".join("1" * 14))
    (folder / "bad.parquet").write_bytes(b"PAR1 and no more")
    (folder / "bad.wav").write_bytes(b"RIFF and no more")
    (folder / "any.json").write_text('{"x": [1, 2]}')
    np.savez(folder / "stacked.npz", x=np.zeros((3, 16), np.float32))
    onnx.save(model([node("Relu", ["x"], ["y"])], {"x": ["N", "T"]}, ["y"]), folder / "open.onnx")
    onnx.save(model([node("Relu", ["x"], ["y"])], {"x": [1, 16]}, ["y"]), folder / "fixed.onnx")
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered(place: Place, bad: Path, mistake: str, tmp_path: Path) -> None:
    (name, *words), code, message, hint = MISTAKES[mistake]
    words = [word.format(folder=bad, **place.samples) for word in words]
    done = run("quantize", bad / f"{name}.onnx", "-o", tmp_path / "q.onnx", *words)
    error, *hints = [line for line in done.stderr.splitlines() if line.startswith(("error:", "  hint:"))]
    assert done.returncode == code, done.stderr
    assert any(part in error for part in message.split("|")), error
    assert hint in "".join(hints)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "q.onnx").exists()


def test_an_input_that_samples_lack_is_filled(place: Place, tmp_path: Path) -> None:
    words = ["--calib", place.samples["npy"], "--fill", "s=0.5", "--target", "generic"]
    done = run("quantize", place.two, "-o", tmp_path / "q.onnx", *words)
    assert done.returncode == 0, done.stderr


def test_random_data_satisfies_no_gate(place: Place, tmp_path: Path) -> None:
    words = ["--calib", "random:8", "--target", "generic", "--fail-if", "sqnr<1"]
    done = run("quantize", place.model, "-o", tmp_path / "q.onnx", *words)
    assert done.returncode == 1
    assert "gate failed: sqnr<1: random data satisfies no gate" in done.stderr
    assert not (tmp_path / "q.onnx").exists()


def test_random_data_to_calibrate_on_does_not_spoil_a_verdict_on_real_samples(
    place: Place, tmp_path: Path
) -> None:
    words = [
        "--calib",
        "random:8",
        "--data",
        place.samples["npz"],
        "--target",
        "generic",
        "--gate",
        "none",
        "--fail-if",
        "sqnr<1",
    ]
    done = run("quantize", place.model, "-o", tmp_path / "q.onnx", *words)
    assert done.returncode == 0, done.stderr
    assert "random:8 is random data" in done.stderr


def test_code_is_run_only_when_it_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "calib").mkdir()
    as_npz(tmp_path / "calib")
    (tmp_path / "calib" / "conftest.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    run(
        "quantize",
        place.model,
        "-o",
        tmp_path / "q.onnx",
        "--calib",
        tmp_path / "calib",
        cwd=tmp_path / "calib",
    )
    assert not (tmp_path / "sprung").exists()
