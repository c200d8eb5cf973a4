"""The kinds of samples: their hints name the libraries that the project declares."""

from __future__ import annotations

import tomllib

from qtool.tables.sources import KINDS
from tests.graphs import ROOT


def test_a_kind_requires_the_libraries_of_one_extra() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: tuple(needs) for name, needs in declared["optional-dependencies"].items()}
    required = {kind.requires for kind in KINDS.values() if kind.requires}
    others = {"all", "coco", "html", "openvino", "qnn", "ray", "remote", "train"}
    assert required == {extras[name] for name in extras.keys() - others}
