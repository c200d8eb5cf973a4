"""How large the values of a model are on a sample."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from qtool.calibrate.runner import with_outputs
from qtool.data.fit import fit
from qtool.data.samples import Source
from qtool.graph.save import model_for_session
from qtool.session import Session, running

Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: ir.Model, values: Iterable[str], source: Source, threads: int = 0) -> Shapes:
    """The shapes of values of the main graph, on the first sample.

    Args:
        model: prepared.
        values: names; those that no node makes are looked up among the inputs.

    Raises:
        DataError: the sample does not fit.
        RuntimeFailure: the model fails on it.
    """
    made = {v.name for node in model.graph for v in node.outputs if v.name}  # an LSTM may lack some
    fetched = sorted({v for v in values if v in made})
    with model_for_session(with_outputs(model, fetched)) as loadable:
        session = Session(loadable, threads=threads, name="the model whose shapes are looked at")
        sample = next(iter(source.read(frozenset({0}))))
        inputs = fit(sample, session.inputs, session.input_dtypes, source.name)
        with running(session):
            outputs = session.run(inputs, fetched or None)
    found = {name: np.shape(array) for name, array in inputs.items()}
    return found | {name: np.shape(a) for name, a in zip(fetched, outputs, strict=False)}
