"""Ten models from the world, through the installed program. Only where they are at hand."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from qtool.runtime.session import Session
from tests.cli.program import MEASURED, run
from tests.exact import exact, honest_target
from tests.graphs import ROOT, SHARED_MODELS

pytestmark = pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason=f"{SHARED_MODELS} is absent")


@dataclass(frozen=True)
class Floor:
    """The least that a model must reach on its eval samples: SQNR in dB of the worst output, and argmax agreement."""

    sqnr: float
    top1: float = 0.0


# What weights of 7 bits may cost where the CPU has no VNNI, dB.
SEVEN_BITS = 4
FLOORS = {
    "resnet20_cifar10": Floor(24),
    "ultraface_rfb320": Floor(38),
    "lprnet": Floor(24),
    "magika": Floor(30, top1=0.99),
    "minilm_l6_v2": Floor(20),
    "stories260k": Floor(20),
    "dtln1": Floor(34),
    "silero_vad": Floor(30),
    "mnist_opset8": Floor(30),
    "tabular_mlp_digits": Floor(20),
}
# Those that `make test` runs.
QUICK = ("dtln1",)


def test_every_model_has_its_floor() -> None:
    assert {p.parent.name for p in SHARED_MODELS.glob("*/model.onnx")} == FLOORS.keys()


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.nightly) for n in FLOORS]
)
def test_defaults_hold_the_floor_on_unseen_samples(name: str, tmp_path: Path) -> None:
    folder, out = SHARED_MODELS / name, tmp_path / "q.onnx"
    done = run(
        "quantize", folder / "model.onnx", "-o", out, "--calib", folder / "calib", "--data", folder / "eval", "--json",
        "--target", honest_target(), env=MEASURED, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    onnx.checker.check_model(str(out), full_check=True)
    original = onnx.load(folder / "model.onnx", load_external_data=False).graph
    constants = {t.name for t in original.initializer}
    session = Session(out, threads=1)
    assert list(session.inputs) == [i.name for i in original.input if i.name not in constants]
    assert session.outputs == [o.name for o in original.output]
    comparison = json.loads(done.stdout)["comparison"]
    assert comparison["samples"] == len(list((folder / "eval").glob("*.npz")))
    assert float(comparison["sqnr"]) >= FLOORS[name].sqnr - (0 if exact() else SEVEN_BITS)
    agreement = [float(o["top1"]) for o in comparison["outputs"] if o["rows"]]
    assert all(a >= FLOORS[name].top1 and not math.isnan(a) for a in agreement)


def test_the_source_names_no_model_and_no_node_of_one() -> None:
    """Rules for one model would not hold for unseen ones. Of nodes, long names that are no words count."""
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "qtool").rglob("*.py"))
    models = {word for name in FLOORS for word in (name, name.split("_")[0])} - {"tabular", "mnist"}
    assert not [word for word in models if word in source.lower()]
    nodes: set[str] = set()
    for name in FLOORS:
        graph = onnx.load(SHARED_MODELS / name / "model.onnx", load_external_data=False).graph
        nodes |= {n.name for n in graph.node} | {t.name for t in graph.initializer}
    quoted = set(re.findall(r"""["']([^"'\n]{8,})["']""", source))
    assert not {n for n in nodes & quoted if not n.isalpha()}
