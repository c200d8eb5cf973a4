"""The most that quantizing everything may cost: a model with noise on every value.

The mode's floor of SQNR is what real models hold. An op may do far worse by its nature (a difference of near
equals, the exponential of a large number, an index of the largest), and there the model itself says how
much: it is run with noise of one quantization step on every float value and constant of its main graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from qtool.runtime.session import Session

Outputs = Sequence[Any]
DRAWS = 6


@dataclass(frozen=True)
class Grid:
    """The fineness with which values are kept.

    Args:
        bits: of a grid over the range of a whole tensor; 0: none.
        relative: the rounding of a floating type, as a share of each value.
        least: the rounding of its smallest values.
        computed: whether computed values are rounded too, not only constants.
    """

    bits: int = 0
    relative: float = 0.0
    least: float = 0.0
    computed: bool = True

    def noise(self, x: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """The error of rounding to the grid (None), or uniform noise of one step to either side: twice that.

        None on what is infinite.
        """
        with np.errstate(all="ignore"):
            size = np.abs(x) * self.relative + self.least
            if self.bits:
                finite = x[np.isfinite(x)].astype(np.float64)
                span = finite.max(initial=0.0) - finite.min(initial=0.0)
                size = size + span / (2**self.bits - 1)
            off = rng.uniform(-1, 1, x.shape) * size if rng else np.rint(x / size) * size - x
        return np.asarray(np.where(np.isfinite(off), off, 0.0), np.float32)


def noisy_runs(model: ModelProto, inputs: Mapping[str, Any], grid: Grid, seed: int) -> list[Outputs | None]:
    """The outputs of the model under several draws of noise; None where it then fails."""
    values = _floats(model, inputs)
    draws = [None, *(np.random.default_rng([seed, i]) for i in range(DRAWS))]
    return [_noisy(model, inputs, values, grid, rng) for rng in draws]


def _floats(model: ModelProto, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Every float32 value that the nodes of the main graph make."""
    probe = ModelProto()
    probe.CopyFrom(model)
    shown = {o.name for o in probe.graph.output}
    made = [o for n in probe.graph.node for o in n.output if o]
    probe.graph.output.extend(onnx.ValueInfoProto(name=o) for o in made if o not in shown)
    values = Session(probe.SerializeToString(), threads=1).run(inputs, made) if made else []
    return {k: v for k, v in zip(made, values, strict=True) if _is_float(v)}


def _noisy(
    model: ModelProto,
    inputs: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    grid: Grid,
    rng: np.random.Generator | None,
) -> Outputs | None:
    twin = ModelProto()
    twin.CopyFrom(model)
    graph = twin.graph
    # Scales that decide over a shape: with noise on them, any shape would be as good as another.
    exact = {name for n in graph.node if n.op_type in ("Resize", "Upsample") for name in n.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name not in exact:
            array = numpy_helper.to_array(tensor)
            with np.errstate(over="ignore"):
                tensor.CopyFrom(numpy_helper.from_array(array + grid.noise(array, rng), tensor.name))
    fed = dict(inputs)
    nodes = list(graph.node)
    del graph.node[:]
    for original in nodes:
        node = graph.node.add()
        node.CopyFrom(original)
        constant = node.op_type in ("Constant", "ConstantOfShape")
        for index, name in enumerate(original.output):
            if name not in values or name in exact or not (grid.computed or constant):
                continue
            node.output[index] = f"{name}_clean"
            noise = numpy_helper.from_array(grid.noise(values[name], rng), f"{name}_noise")
            graph.initializer.append(noise)
            graph.node.append(helper.make_node("Add", [f"{name}_clean", noise.name], [name]))
    if grid.computed:
        fed |= {k: v + grid.noise(v, rng) for k, v in inputs.items() if _is_float(v)}
    twin.ir_version = max(twin.ir_version, 4)
    try:
        return Session(twin.SerializeToString(), threads=1).run(fed)
    except Exception:  # a shape that depends on values, for one
        return None


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.float32
