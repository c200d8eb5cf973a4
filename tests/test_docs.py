"""What the tables hold is documented: an unlisted metric, target or mode fails the build."""

from __future__ import annotations

import pytest

from qtool.tables.modes import MODES
from qtool.tables.targets import TARGETS
from qtool.validate.gates import METRICS
from tests.cli.program import run
from tests.graphs import ROOT


@pytest.mark.parametrize("word", [*METRICS, *TARGETS, *MODES])
def test_the_readme_names_it(word: str) -> None:
    assert f"`{word}`" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", ["quantize", "compare"])
def test_the_help_names_every_metric(command: str) -> None:
    shown = run(command, "--help").stdout
    assert [metric for metric in METRICS if metric not in shown] == []
