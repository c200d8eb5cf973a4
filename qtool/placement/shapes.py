"""How large the values of a model are on a sample."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qtool.calibrate.runner import watching
from qtool.data.samples import Samples

Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: ir.Model, values: Iterable[str], source: Samples, threads: int = 0) -> Shapes:
    """The shapes of values on the first sample; what lies in an If, Loop or Scan has none.

    Args:
        model: prepared.
        values: names.
        source: of which the first sample is run.
        threads: of the runtime.

    Raises:
        DataError: the sample does not fit.
        RuntimeFailure: the model fails on it.
    """
    main = {
        v.name for v in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)) if v.name
    }
    names = sorted(main & set(values))
    sample = next(iter(source.read(frozenset({0}))))
    with watching(model, names, threads, "the model whose shapes are looked at") as look:
        return {name: np.shape(array) for name, array in zip(names, look(sample, source.name), strict=True)}
