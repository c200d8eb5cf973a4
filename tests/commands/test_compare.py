"""compare doubts what it was given: swapped models, and models that are no versions of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import qtool
from tests.graphs import samples
from tests.rewrite.zoo import CASES

SAMPLES = samples(8, x=(1, 16, 8, 8))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compare")
    made = {name: folder / f"{name}.onnx" for name in ("fp32", "int8", "other", "rough")}
    proto = CASES["residual"].build()
    onnx.save(proto, made["fp32"])
    options = qtool.Options(calib=SAMPLES, target="generic", effort="fast", threads=1)
    qtool.quantize(proto, made["int8"], options)
    for name, seed in (("other", 1), ("rough", 2)):
        random = np.random.default_rng(seed)
        for tensor in proto.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32:
                noise = random.standard_normal(array.shape).astype(np.float32)
                changed = noise if name == "other" else array + 0.03 * array.std() * noise
                tensor.CopyFrom(onnx.numpy_helper.from_array(changed, tensor.name))
        onnx.save(proto, made[name])
        proto = CASES["residual"].build()
    return made


CASES_OF = [
    ("fp32", "int8", ""),
    ("fp32", "rough", ""),
    ("fp32", "fp32", ""),
    ("int8", "int8", ""),
    ("rough", "int8", ""),  # the same model, saved by another tool
    ("int8", "fp32", "are the two swapped?"),
    ("other", "fp32", "versions of one model?"),
    ("other", "int8", "was made from another model"),
]


@pytest.mark.parametrize(("first", "second", "doubt"), CASES_OF)
def test_it_doubts_models_that_do_not_belong_together(
    first: str, second: str, doubt: str, files: dict[str, Path]
) -> None:
    warnings = qtool.compare(files[first], files[second], SAMPLES).warnings
    if doubt:
        assert len(warnings) == 1 and doubt in warnings[0]
        assert str(files[first]) in warnings[0] and str(files[second]) in warnings[0]
    else:
        assert warnings == ()
