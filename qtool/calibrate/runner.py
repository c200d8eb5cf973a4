"""Run samples through the FP32 model and observe exactly the tensors that the draft names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir

from qtool.calibrate.histogram import Collector
from qtool.calibrate.ranges import Ranges, finite, observe
from qtool.data.fit import fit
from qtool.data.samples import Source
from qtool.errors import DataError, printable
from qtool.graph.save import model_for_session
from qtool.session import Session, running

Progress = Callable[[int, int], None]


def calibrate(
    model: ir.Model,
    values: Sequence[str],
    source: Source,
    *,
    threads: int = 0,
    histograms: bool = False,
    progress: Progress = lambda done, total: None,
) -> Ranges:
    """The ranges of the named values of the main graph, over all samples, one at a time.

    Nothing of a sample is kept but what it adds to extremes, sums and (on demand) histograms. A value
    that never held an element is not in the result.

    Raises:
        DataError: no samples, a sample that does not fit the model, NaN in an activation.
        RuntimeFailure: the runtime failed on a sample.
    """
    total = len(source)
    if not total:
        raise DataError(f"{source.name}: no samples to calibrate on")
    fed = {v.name or "" for v in model.graph.inputs}
    fetched = [v for v in values if v not in fed]
    ranges: Ranges = {}
    counted: dict[str, Collector] = {}
    with model_for_session(_with_outputs(model, fetched)) as loadable:
        session = Session(loadable, threads=threads, name="calibration model")
        for done, sample in enumerate(source.read(), start=1):
            inputs = fit(sample, session.inputs, session.input_dtypes, source.name)
            with running(session):
                arrays = dict(zip(fetched, session.run(inputs, fetched) if fetched else [], strict=True))
            arrays |= {v: inputs[v] for v in values if v in fed}
            for value, array in arrays.items():
                seen = observe(array)
                if seen is None:
                    continue
                if math.isnan(seen.lo):
                    raise DataError(
                        f"{source.name}/{sample.name}: activation '{printable(value)}' holds NaN",
                        "the FP32 model itself fails on this sample; leave it out or mend the model",
                    )
                ranges[value] = ranges[value].merge(seen) if value in ranges else seen
                if histograms:
                    counted.setdefault(value, Collector()).add(finite(array), max(-seen.lo, seen.hi))
            progress(done, total)
    return {v: replace(r, histogram=counted[v].histogram()) if v in counted else r for v, r in ranges.items()}


def _with_outputs(model: ir.Model, values: Sequence[str]) -> ir.Model:
    clone = model.clone()
    present = {v.name for v in clone.graph.outputs}
    found = {v.name: v for node in clone.graph for v in node.outputs}
    for name in values:
        if name in present:
            continue
        value = found[name]
        value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
        clone.graph.outputs.append(value)
    return clone
