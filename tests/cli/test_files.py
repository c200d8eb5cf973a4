"""The files that the program writes, and those that it leaves alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import onnx
import pytest

from qtool.plan import serial
from tests.cli.conftest import Workplace
from tests.cli.program import run, run_bytes, run_installed
from tests.graphs import write_samples
from tests.rewrite.flow import run as run_model
from tests.rewrite.flow import sqnr
from tests.rewrite.zoo import CASES
from tests.targets import COMMON


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_dry_run_needs_no_samples_and_writes_nothing(place: Workplace, tmp_path: Path) -> None:
    for target in COMMON:
        done = run("quantize", place.model, "--dry-run", "-v", "--target", target, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "MatMul" in done.stdout
    assert left(tmp_path) == []


def test_dry_run_leaves_an_existing_output_alone(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "q.onnx").write_bytes(b"old")
    done = run("quantize", place.model, "-o", tmp_path / "q.onnx", "--dry-run")
    assert done.returncode == 0
    assert (tmp_path / "q.onnx").read_bytes() == b"old"


def test_force_replaces(place: Workplace, tmp_path: Path) -> None:
    (tmp_path / "q.onnx").write_bytes(b"old")
    done = run(
        "quantize",
        place.model,
        "-o",
        tmp_path / "q.onnx",
        "--calib",
        place.calib,
        "--target",
        "generic",
        "--force",
    )
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "q.onnx") == digest(place.quantized)
    assert left(tmp_path) == ["q.onnx"]


def test_the_input_is_refused_as_output_by_any_name(place: Workplace, tmp_path: Path) -> None:
    before = digest(place.model)
    (tmp_path / "link.onnx").symlink_to(place.model)
    (tmp_path / "hard.onnx").hardlink_to(place.model)
    for name in ("link.onnx", "hard.onnx"):
        done = run("quantize", place.model, "-o", tmp_path / name, "--calib", place.calib, "--force")
        assert done.returncode == 2
        assert "is the input" in done.stderr
    assert digest(place.model) == before


@pytest.mark.parametrize("victim", ["the model", "the output", "an existing file"])
def test_save_plan_overwrites_no_input_or_output(victim: str, place: Workplace, tmp_path: Path) -> None:
    """--save-plan is an output like -o: not over an input, not over the model, not over a file without --force."""
    model, out, other = tmp_path / "m.onnx", tmp_path / "q.onnx", tmp_path / "notes.txt"
    model.write_bytes(place.model.read_bytes())
    other.write_text("precious", encoding="utf-8")
    target = {"the model": model, "the output": out, "an existing file": other}[victim]
    done = run(
        "quantize", model, "-o", out, "--calib", place.calib, "--target", "generic", "--save-plan", target
    )
    assert done.returncode == 2
    assert digest(model) == digest(place.model)
    assert other.read_text(encoding="utf-8") == "precious"
    assert not out.exists()


REPLAYS: dict[str, list[str]] = {
    "plain": [],
    "exclude": ["--exclude", "op:Softmax"],
    "include": ["--include", "op:MatMul"],
}


@pytest.mark.parametrize("target", ["cpu", "generic"])
@pytest.mark.parametrize("replay", REPLAYS)
def test_a_saved_plan_replays_byte_for_byte(
    replay: str, target: str, place: Workplace, tmp_path: Path
) -> None:
    """Without samples, and whatever speed was measured when the plan was made."""
    first, second, plan = tmp_path / "a.onnx", tmp_path / "b.onnx", tmp_path / "plan.json"
    base = ["quantize", place.model, "--target", target, "--gate", "none"]
    done = run(*base, "-o", first, "--calib", place.calib, "--save-plan", plan, *REPLAYS[replay])
    assert done.returncode == 0, done.stderr
    done = run(*base, "-o", second, "--plan", plan)
    assert done.returncode == 0, done.stderr
    assert digest(first) == digest(second)


def test_a_plan_knows_its_target(place: Workplace, tmp_path: Path) -> None:
    """Replayed without --target it gives the same bytes, or is refused: never something else in silence."""
    out = tmp_path / "q.onnx"
    done = run("quantize", place.model, "-o", out, "--plan", place.plan)
    if done.returncode != 2:
        assert done.returncode == 0, done.stderr
        assert digest(out) == digest(place.quantized)


def test_a_plan_for_another_model_is_refused(place: Workplace, tmp_path: Path) -> None:
    proto = onnx.load(place.model)
    proto.producer_name = "somebody else"
    onnx.save(proto, tmp_path / "m.onnx")
    done = run(
        "quantize",
        tmp_path / "m.onnx",
        "-o",
        tmp_path / "q.onnx",
        "--plan",
        place.plan,
        "--target",
        "generic",
    )
    assert done.returncode == 2
    assert "another model" in done.stderr


def test_the_same_command_gives_the_same_bytes(place: Workplace, tmp_path: Path) -> None:
    """In a process of its own, with another hash seed than the fork server's."""
    out = tmp_path / "q.onnx"
    words = ["quantize", place.model, "-o", out, "--calib", place.calib, "--target", "generic"]
    done = run_installed(*words, env={"PYTHONHASHSEED": "1"})
    assert done.returncode == 0, done.stderr
    assert digest(out) == digest(place.quantized)


def test_the_recipe_is_in_the_model_without_paths_and_times(place: Workplace) -> None:
    recipe = {p.key: p.value for p in onnx.load(place.quantized).metadata_props}
    assert recipe["qtool.source_sha256"] == digest(place.model)
    assert recipe["qtool.target"] == "generic"
    assert not any(str(place.model.parent) in v for v in recipe.values())


def test_the_saved_plan_is_the_one_whose_digest_the_model_carries(place: Workplace) -> None:
    recipe = {p.key: p.value for p in onnx.load(place.quantized).metadata_props}
    plan = serial.from_json(place.plan.read_text(), "the plan")
    assert recipe["qtool.plan_sha256"] == serial.digest(plan)


def test_a_dash_is_never_a_file_name(place: Workplace, tmp_path: Path) -> None:
    """`-` is stdin or stdout, or refused; no file is called `-`."""
    words = ["quantize", place.model, "--calib", place.calib, "--target", "generic", "-o"]
    assert run_bytes(*words, "-", cwd=tmp_path).returncode == 0
    assert run(*words, "q.onnx", "--save-plan", "-", cwd=tmp_path).returncode == 2
    assert left(tmp_path) == []


def test_external_data_is_followed(place: Workplace, tmp_path: Path) -> None:
    onnx.save(
        onnx.load(place.model),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    done = run(
        "quantize", tmp_path / "m.onnx", "-o", tmp_path / "q.onnx", "--calib", place.calib, "--target", "generic", "--json"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    sizes = (tmp_path / "m.onnx").stat().st_size + (tmp_path / "m.data").stat().st_size
    assert json.loads(done.stdout)["fp32"]["bytes"] == sizes
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=True)
    assert left(tmp_path) == ["m.data", "m.onnx", "q.onnx"]


def test_a_plan_with_a_scale_edited_by_hand_stays_whole_or_is_refused(tmp_path: Path) -> None:
    """The bias goes with the product of its scales: the runtime takes that for granted and looks no further."""
    case = CASES["mlp-gemm"]
    model, calib = tmp_path / "m.onnx", write_samples(tmp_path / "calib", case.samples())
    model.write_bytes(case.build().SerializeToString())
    out, plan = tmp_path / "q.onnx", tmp_path / "plan.json"
    done = run("quantize", model, "-o", out, "--calib", calib, "--target", "generic", "--save-plan", plan)
    assert done.returncode == 0, done.stderr
    document = json.loads(plan.read_text(encoding="utf-8"))
    site = next(s for s in document["sites"] if s["value"] == "x")
    site["qparams"]["scale"]["values"] *= 2
    plan.write_text(json.dumps(document), encoding="utf-8")
    done = run("quantize", model, "-o", out, "--plan", plan, "--force")
    if done.returncode != 2:
        assert done.returncode == 0, done.stderr
        data = out.read_bytes()
        expected = run_model(model.read_bytes(), case.samples())
        plain, fused = (run_model(data, case.samples(), optimize=o) for o in (False, True))
        assert sqnr(plain, fused) >= sqnr(expected, plain) + 6
