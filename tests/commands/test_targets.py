"""The targets of a run: `auto` by the CPU alone, `best` by what is installed, several by name."""

from __future__ import annotations

import pytest

from qtool.commands.targets import targets_of
from qtool.errors import EnvironmentFailure, UsageError
from qtool.options import Options
from qtool.runtime import cpu, providers
from qtool.runtime.cpu import fitting_target
from qtool.tables.targets import TARGETS


@pytest.fixture(params=[True, False], ids=["installed", "missing"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the packages of all runtimes are found."""
    present = bool(request.param)
    monkeypatch.setattr(providers, "find_spec", lambda name: object() if present else None)
    monkeypatch.setattr(providers, "_devices", lambda row: ())
    monkeypatch.setattr(providers, "precisions_here", lambda row: list(row.precisions))
    return present


def test_auto_never_depends_on_what_is_installed(installed: bool) -> None:
    assert targets_of(Options()) == (["auto"], [])
    assert TARGETS[fitting_target()].runtime == "onnxruntime"


def test_best_is_what_is_installed_and_names_the_rest(installed: bool) -> None:
    names, left_out = targets_of(Options(target="best"))
    own = fitting_target("openvino")
    assert names == ([fitting_target(), own] if installed else [fitting_target()])
    assert [t.target for t in left_out] == ([] if installed else [own])
    assert all("pip install" in t.why for t in left_out)


@pytest.mark.parametrize(
    "vendor, package", [("GenuineIntel", "onnxruntime-ep-openvino"), ("AuthenticAMD", "openvino")]
)
def test_a_named_target_needs_its_runtime(
    installed: bool, vendor: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "facts", lambda: {"vendor_id": vendor})
    options = Options(target="cpu,openvino")  # type: ignore[arg-type]
    if installed:
        assert targets_of(options) == (["cpu", "openvino"], [])
        return
    with pytest.raises(EnvironmentFailure) as caught:
        targets_of(options)
    assert caught.value.hint == f"pip install {package}"


@pytest.mark.parametrize("more", [{"timing": "table"}, {"runtime": "onnxruntime"}], ids=str)
def test_several_targets_need_a_race_of_their_own(more: dict[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        targets_of(Options(target="cpu,cpu-avx2", **more))  # type: ignore[arg-type]
    assert caught.value.hint
