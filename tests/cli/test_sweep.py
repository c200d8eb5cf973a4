"""`qtool sweep`: every model in every configuration, one table, and what a second run skips or refuses."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
import pytest

import qtool
from qtool.commands.sweep import SweepItem, is_done, labels_of, run_item
from qtool.errors import UsageError
from tests.cli.program import run
from tests.graphs import model, node, samples, weights, write_samples

CONFIGS = """
calib = "{folder}/calib"
target = "generic"
timing = "table"
threads = 1
effort = "fast"

[int8]

[strict]
method = "mse"
fail-if = ["quantized<1000"]
"""
OPTIONS = qtool.Options(target="generic", timing="table", threads=1, effort="fast")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of the same name, each beside its samples, a damaged one, and two configurations."""
    folder = tmp_path_factory.mktemp("sweep")
    for number, name in enumerate(("a", "b")):
        made = model(
            [node("MatMul", ["x", "w"], ["y"])], {"x": ("n", 8)}, {"y": ("n", 8)}, {"w": weights(8, 8, seed=number)}
        )  # fmt: skip
        write_samples(folder / name / "calib", samples(12, seed=number, x=(2, 8)))
        onnx.save(made, folder / name / "model.onnx")
    (folder / "bad.onnx").write_bytes(b"junk")
    (folder / "configs.toml").write_text(CONFIGS)
    return folder


def swept(place: Path, *arguments: object) -> Any:
    return run("sweep", *arguments, "--configs", "configs.toml", "-o", "out", "--json", cwd=place)


MODELS = ("a/model.onnx", "b/model.onnx")


@pytest.fixture(scope="module")
def first(place: Path) -> Any:
    return swept(place, *MODELS, "bad.onnx", "--report", "sweep.csv")


def test_every_pair_has_its_files_and_a_row(place: Path, first: Any) -> None:
    assert first.returncode == 3, first.stderr  # the error counts for more than the gates
    rows = json.loads(first.stdout)["rows"]
    assert [(r["model"], r["name"], r["exit_code"]) for r in rows] == [
        (name, config, code)
        for name, codes in ((MODELS[0], (0, 1)), (MODELS[1], (0, 1)), ("bad.onnx", (3, 3)))
        for config, code in zip(("int8", "strict"), codes, strict=True)
    ]
    assert "error: bad.onnx, int8: bad.onnx: not a readable ONNX model" in first.stderr
    assert rows[1]["gates_failed"] == ["quantized<1000"]
    assert sorted(str(p.relative_to(place / "out")) for p in (place / "out").rglob("*.*")) == [
        f"{label}-model/{name}"
        for label in ("a", "b")
        for name in ("int8.done", "int8.json", "int8.onnx", "int8.plan.json", "strict.done", "strict.json")
    ]
    with (place / "sweep.csv").open() as stream:
        assert [row["exit_code"] for row in csv.DictReader(stream)] == list("010133")


def test_a_result_is_that_of_quantize(place: Path, first: Any) -> None:
    qtool.quantize(
        place / "a/model.onnx", place / "alone.onnx", replace(OPTIONS, calib=str(place / "a/calib"))
    )
    assert (place / "alone.onnx").read_bytes() == (place / "out/a-model/int8.onnx").read_bytes()
    words = qtool.read_report(place / "out/a-model/int8.json").arguments
    assert words[:3] == ("qtool", "quantize", "a/model.onnx")
    assert ("--calib", str(place / "a/calib")) in pairwise(words)


def test_a_second_run_is_refused_or_resumed(place: Path, first: Any) -> None:
    with pytest.raises(UsageError, match="exists") as caught:
        qtool.sweep([place / name for name in MODELS], {"int8": OPTIONS}, place / "out")
    assert "--resume skips what is done" in caught.value.hint
    resumed = swept(place, *MODELS, "--resume", "--part", "2/2")
    assert resumed.returncode == 1, resumed.stderr
    document = json.loads(resumed.stdout)
    assert document["resumed"] == 2
    assert [row["name"] for row in document["rows"]] == ["strict", "strict"]


def test_what_changed_is_done_again(place: Path, tmp_path: Path) -> None:
    calib = write_samples(tmp_path / "calib", samples(12, x=(2, 8)))
    (tmp_path / "metric.py").write_text("def zero(fp32, quantized):\n    return 0.0\n")
    options = replace(OPTIONS, calib=str(calib), metrics=(f"{tmp_path / 'metric.py'}:zero",))
    item = SweepItem(str(place / "a/model.onnx"), "int8", tmp_path / "m" / "int8.onnx", options)
    run_item(item)
    assert is_done(item)
    assert not is_done(replace(item, options=replace(options, symmetric=True)))
    assert not is_done(replace(item, model=str(place / "b/model.onnx")))
    for file in (calib / "003.npz", tmp_path / "metric.py"):
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        os.utime(file, (1, 1))
        assert not is_done(item)
        os.utime(file, ns=times)
        assert is_done(item)
    item.output.unlink()
    assert not is_done(item)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode = 'static'", "no configuration"),
        ("[int8]\nmode = 'statik'", "statik"),
        ("[int8]\noutput = 'x'", "[int8]: no option 'output'"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_runs(
    place: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "c.toml").write_text(text)
    done = run("sweep", MODELS[0], "--configs", tmp_path / "c.toml", "-o", tmp_path / "out", cwd=place)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_models_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("/m/a/model.onnx"), Path("/m/b/model.onnx"), Path("/x/net.onnx"), Path("/b/model.onnx")]
    assert labels_of(paths) == ["a-model", "m-b-model", "net", "b-model"]
    with pytest.raises(UsageError, match="twice"):
        labels_of([Path("net.onnx"), Path("net.onnx")])


def test_a_configuration_names_files() -> None:
    with pytest.raises(UsageError, match="can't name a file"):
        qtool.sweep(["net.onnx"], {"a/b": OPTIONS}, "out")
