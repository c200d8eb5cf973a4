"""--target auto looks at the CPU; the plan holds what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

import qtool
from qtool.commands.prepare import NO_SAMPLES, prepare_model
from qtool.commands.verdict import plan_report
from qtool.plan.draft import draft
from qtool.plan.rules import rule_based
from qtool.runtime import cpu
from tests.graphs import model, node, weights

MODEL = model([node("MatMul", ["x", "w"], ["y"])], {"x": (4, 64)}, ["y"], {"w": weights(64, 64)})
FLAGS = {
    # what /proc/cpuinfo holds, the machine, the target
    "avx2": ("flags : fpu avx2 fma\n", "x86_64", "cpu-avx2"),
    "avx512-vnni": ("flags\t\t: fpu avx2 avx512_vnni fma\n", "x86_64", "cpu"),
    "avx-vnni": ("processor : 0\nflags : avx_vnni\n", "AMD64", "cpu"),
    "amx": ("flags : amx_int8\n", "x86_64", "cpu"),
    "another-avx512": ("flags : avx512f avx512_vnni_like\n", "x86_64", "cpu-avx2"),
    "arm": ("Features : fp asimd asimddp\n", "aarch64", "arm64"),
    "unknown": (None, "x86_64", "cpu-avx2"),
    "apple": (None, "arm64", "arm64"),
}


def be(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the CPU be one of FLAGS; return its target."""
    text, machine, target = FLAGS[name]
    file = folder / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(cpu, "_FILE", file)
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    return target


@pytest.mark.parametrize("name", FLAGS)
def test_the_target_is_that_of_the_cpu(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = be(name, tmp_path, monkeypatch)
    assert cpu.fitting_target() == target


@pytest.mark.parametrize("name", ["avx2", "amx"])
def test_the_plan_holds_it(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = be(name, tmp_path, monkeypatch)
    result = qtool.dry_run(MODEL, qtool.Options(mode="dynamic"))
    assert (result.plan.target, result.report.target) == (target, target)
    assert not any("VNNI" in warning for warning in result.report.warnings)


def test_sums_that_saturate_here_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be("avx2", tmp_path, monkeypatch)

    def warned(**options: object) -> int:
        prepared = prepare_model(MODEL, qtool.Options(**options), sets=NO_SAMPLES)  # type: ignore[arg-type]
        report = plan_report(prepared, draft(prepared.task, rule_based(prepared.task)))
        return sum("VNNI" in warning for warning in report.warnings)

    assert warned(mode="static", target="cpu") == 1
    assert warned(mode="static", target="generic") == 1
    assert not warned(mode="static", target="cpu", weights="uint8")
    assert not warned(mode="static", target="cpu", acts="int8")
    assert not warned(mode="static", target="tensorrt")
    assert not warned(mode="weight-only", target="cpu")
    assert not warned(mode="fp16", target="cpu")
    be("amx", tmp_path, monkeypatch)
    assert not warned(mode="static", target="generic")
