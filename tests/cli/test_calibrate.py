"""`qtool calibrate`: what samples show is kept, merged and used, as a user does it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.program import run
from tests.graphs import SAMPLE_MODELS
from tests.tiers import sample

CNN = SAMPLE_MODELS / "cnn"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over all samples, and three over a third of them."""
    folder = tmp_path_factory.mktemp("ranges")
    for name, shard in (("all", ()), *((str(i), ("--shard", f"{i}/3")) for i in (1, 2, 3))):
        done = run(
            "calibrate", CNN / "model.onnx", "--calib", CNN / "calib", "-o", folder / f"{name}.json", *shard
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_merge_to_the_very_file_of_one_run(made: Path, tmp_path: Path, order: tuple[int, ...]) -> None:
    parts = [made / f"{i}.json" for i in order]
    done = run("calibrate", "--merge", *parts, "-o", tmp_path / "merged.json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "merged.json").read_bytes() == (made / "all.json").read_bytes()


def test_merging_in_two_steps_is_the_same(made: Path, tmp_path: Path) -> None:
    run("calibrate", "--merge", made / "2.json", made / "3.json", "-o", tmp_path / "some.json")
    run("calibrate", "--merge", made / "1.json", tmp_path / "some.json", "-o", tmp_path / "merged.json")
    assert (tmp_path / "merged.json").read_bytes() == (made / "all.json").read_bytes()


@pytest.mark.parametrize("method", sample(["minmax", "entropy", "moving-average", "percentile", "mse"], 5))
def test_a_ranges_file_replaces_the_samples(tmp_path: Path, method: str) -> None:
    """Up to rounding: the runtime fuses less where every tensor is watched.

    Every fourth sample of --calib selects, so the file is made of the others. Nothing is selected here.
    """
    kept = tmp_path / "kept"
    kept.mkdir()
    for index, path in enumerate(sorted((CNN / "calib").glob("*.npz"))):
        if index % 4 < 3:
            shutil.copy(path, kept)
    done = run("calibrate", CNN / "model.onnx", "--calib", kept, "-o", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    judge = tmp_path / "judge"
    judge.mkdir()
    for path in sorted((CNN / "eval").glob("*.npz"))[:8]:
        shutil.copy(path, judge)
    command = ["quantize", CNN / "model.onnx", "--method", method, "--data", judge]
    fed = {"kept": ["--ranges", tmp_path / "r.json"], "fresh": ["--calib", CNN / "calib"]}
    scales = []
    for name, samples in fed.items():
        # Types that are asked for are kept, however fast they turn out.
        done = run(
            *command, *samples, "--acts", "uint8", "-o", tmp_path / f"{name}.onnx", "--fail-if", "sqnr<15"
        )
        assert done.returncode == 0, done.stderr
        constants = onnx.load(tmp_path / f"{name}.onnx").graph.initializer
        scales.append({t.name: onnx.numpy_helper.to_array(t) for t in constants if t.name.endswith("_scale")})
    assert scales[0].keys() == scales[1].keys()
    for name, kept in scales[0].items():
        np.testing.assert_allclose(kept, scales[1][name], rtol=0.02, err_msg=name)


def test_the_file_names_its_model_and_samples(made: Path) -> None:
    document = json.loads((made / "all.json").read_text())
    assert document["schema"] == "qtool.ranges/2"
    assert document["samples"] == len(list((CNN / "calib").glob("*.npz")))
    for name, bounds in document["ranges"].items():
        assert bounds["lo"] <= bounds["hi"], name
        assert 0 < sum(bounds["histogram"]["counts"]["values"]) <= bounds["count"] - bounds["masked"], name


def edited(made: Path, tmp_path: Path, **changes: object) -> Path:
    document = json.loads((made / "all.json").read_text()) | changes
    (tmp_path / "edited.json").write_text(json.dumps(document))
    return tmp_path / "edited.json"


@pytest.mark.parametrize(
    ("changes", "code", "word"),
    [
        ({"model_sha256": "0" * 64}, 4, "another model"),
        ({"schema": "qtool.ranges/99"}, 2, "qtool.ranges/2"),
        ({"ranges": []}, 2, "ranges file"),
        ({"ranges": {"x": {"lo": 1}}}, 2, "ranges file"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    made: Path, tmp_path: Path, changes: dict[str, object], code: int, word: str
) -> None:
    ranges = edited(made, tmp_path, **changes)
    done = run("quantize", CNN / "model.onnx", "--ranges", ranges, "-o", tmp_path / "q.onnx")
    assert (done.returncode, word in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "q.onnx").exists()


def test_ranges_of_different_models_do_not_merge(made: Path, tmp_path: Path) -> None:
    other = edited(made, tmp_path, model_sha256="1" * 64)
    done = run("calibrate", "--merge", made / "all.json", other, "-o", tmp_path / "m.json")
    assert done.returncode == 2
    assert "different models" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([CNN / "model.onnx"], "--calib"),
        ([CNN / "model.onnx", CNN / "model.onnx", "--calib", CNN / "calib"], "--merge"),
        ([CNN / "model.onnx", "--calib", CNN / "calib", "--shard", "4/3"], "--shard"),
        ([CNN / "model.onnx", "--calib", CNN / "calib", "--shard", "half"], "--shard"),
        (["--merge", CNN / "model.onnx", "--shard", "1/2"], "--merge"),
    ],
)
def test_2_the_typical_mistakes(tmp_path: Path, arguments: list[object], word: str) -> None:
    done = run("calibrate", *arguments, "-o", tmp_path / "r.json")
    assert done.returncode == 2
    assert word in done.stderr
    assert not list(tmp_path.iterdir())


def test_4_a_shard_without_samples(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", input=np.zeros((1, 1), np.float32))
    done = run(
        "calibrate", CNN / "model.onnx", "--calib", tmp_path, "--shard", "2/2", "-o", tmp_path / "r.json"
    )
    assert done.returncode == 4
    assert "2/2" in done.stderr


@pytest.mark.parametrize(
    ("source", "output"),
    [("samples", "samples/0.npz"), ("samples", "samples/more/1.npz"), ("calib.py:load", "calib.py")],
)
def test_2_an_input_is_not_an_output(source: str, output: str, tmp_path: Path) -> None:
    """--force is leave to replace an old result, never what the new one is made from."""
    (tmp_path / "samples" / "more").mkdir(parents=True)
    for name in ("0.npz", "more/1.npz"):
        shutil.copy(next((CNN / "calib").iterdir()), tmp_path / "samples" / name)
    (tmp_path / "calib.py").write_text("def load():\n    return []\n")
    target = tmp_path / output
    before = target.read_bytes()
    options = ["--calib", tmp_path / source, "-o", target, "--force"]
    done = run("calibrate", CNN / "model.onnx", *options)
    assert (done.returncode, target.read_bytes()) == (2, before), done.stderr
