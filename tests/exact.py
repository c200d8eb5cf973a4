"""Whether this CPU multiplies int8 exactly. Without VNNI (AVX2, AVX-512 of old) the runtime's kernels saturate.

There u8 x s8 adds pairs of products in 16 bits: 2 * 255 * 127 is more than they hold. A test that holds int8
kernels to their arithmetic, with weights of the full range, then judges the machine.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from qtool.runtime.session import Session
from tests.graphs import model, node


@cache
def exact() -> bool:
    """Whether MatMulInteger of the largest u8 and s8 gives their exact product."""
    from onnx import TensorProto

    proto = model(
        [node("MatMulInteger", ["x", "w"], ["y"])],
        {"x": (4, 64)},
        ["y"],
        {"w": np.full((64, 32), 127, np.int8)},
        input_type=TensorProto.UINT8,
        output_type=TensorProto.INT32,
    )
    (products,) = Session(proto.SerializeToString(), threads=1).run({"x": np.full((4, 64), 255, np.uint8)})
    return bool(np.all(products == 64 * 255 * 127))


def honest_target() -> str:
    """The target that this CPU is: on any other, the program's int8 kernels would saturate."""
    return "cpu" if exact() else "cpu-avx2"


exact_products = pytest.mark.skipif(not exact(), reason="int8 kernels saturate on this CPU: it has no VNNI")
